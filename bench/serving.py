"""Models over HTTP: 1 000 connections that fetch one of 4 MB, beside nginx with the same bytes in the same run.

Both are asked by wrk, of Debian's package of that name; where one of the two is not installed, nothing is measured.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import system, tasks
from disco_server.ports import WantedPort, find_free

TASK, MODEL = "served", "1 M"
CONNECTIONS = 1_000
START_S = 10.0
_RATE = re.compile(r"Requests/sec:\s+([0-9.]+)")
_FAILED = re.compile(r"Socket errors:.*|Non-2xx or 3xx responses:.*")


@dataclass(frozen=True, slots=True)
class Serving:
    """Requests per second; `cpu_ms` is the gateway's, for one request."""

    ours: float
    nginx: float
    cpu_ms: float
    failed: str


def is_possible() -> bool:
    """Whether what it takes is installed."""
    return all(shutil.which(name) for name in ("wrk", "nginx"))


def measure(*, seconds: float) -> Serving:
    """Loads one, then the other."""
    with system.running() as running:
        tasks.create(running.task_service, TASK, model=MODEL, participants=1)
        url = f"http://127.0.0.1:{running.gateway_port}/tasks/{TASK}/weights.bin"
        with urllib.request.urlopen(url) as answer:
            body = answer.read()
        with _nginx(body) as theirs:
            nginx, nginx_failed = _load(theirs, seconds=seconds)
        before = running.cost("gateway")
        ours, failed = _load(url, seconds=seconds)
        spent = running.cost("gateway").cpu_s - before.cpu_s
    return Serving(ours, nginx, 1e3 * spent / (ours * seconds), failed or nginx_failed)


def _load(url: str, *, seconds: float) -> tuple[float, str]:
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--timeout", "60s", url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 (of our own)
    found = _RATE.search(said)
    assert found, said
    failed = _FAILED.search(said)
    return float(found[1]), failed[0] if failed else ""


@contextmanager
def _nginx(body: bytes) -> Iterator[str]:
    """nginx as Debian would start it, a process for each core and files sent by the kernel; the URL of the body."""
    port = find_free([WantedPort("DISCO_GATEWAY_PORT", "", "127.0.0.1", 0)])[0]
    with tempfile.TemporaryDirectory(prefix="disco-bench-nginx-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx started as root reads as another user
        (folder / "weights.bin").write_bytes(body)
        temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi"))
        (folder / "nginx.conf").write_text(
            f"worker_processes auto; daemon off; pid {folder}/pid; error_log {folder}/errors;"
            "events { worker_connections 4096; }"
            f"http {{ access_log off; sendfile on; tcp_nopush on; {temporary}"
            f"uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;"
            f"server {{ listen 127.0.0.1:{port}; root {folder}; }} }}"
        )
        process = subprocess.Popen(["nginx", "-e", str(folder / "errors"), "-c", str(folder / "nginx.conf")])  # noqa: S603, S607
        try:
            url = f"http://127.0.0.1:{port}/weights.bin"
            _wait_for(url)
            yield url
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(url: str) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 (a URL of our own)
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
