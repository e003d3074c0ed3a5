"""The whole system in a test: `disco-server` as a user starts it, on free loopback ports, in the test's directory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
START_S = 90.0
MODULES = {
    "gateway": "gateway",
    "task_service": "services.task_service",
    "aggregator": "services.aggregator",
    "signaling": "services.signaling",
}


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on; all are held until all are found."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@dataclass
class System:
    """A running system. `start` and `stop` may be called again and again: the directory stays."""

    data_dir: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.port, task_service, aggregator, signaling = free_ports(4)
        self.url = f"http://127.0.0.1:{self.port}/"
        self.aggregator_address = f"127.0.0.1:{aggregator}"
        self.task_service_address = f"127.0.0.1:{task_service}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DISCO_")},
            "DISCO_GATEWAY_PORT": str(self.port),
            "DISCO_TASK_SERVICE_PORT": str(task_service),
            "DISCO_AGGREGATOR_PORT": str(aggregator),
            "DISCO_SIGNALING_PORT": str(signaling),
            "DISCO_GATEWAY_METRICS_PORT": "0",
            "DISCO_TASK_SERVICE_METRICS_PORT": "0",
            "DISCO_AGGREGATOR_METRICS_PORT": "0",
            "DISCO_SIGNALING_METRICS_PORT": "0",
            "DISCO_DATA_DIR": str(self.data_dir),
            "DISCO_UPLOADS_PER_MINUTE": "0",
            **self.settings,
        }
        self.log: IO[bytes] | None = None

    async def start(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.log = (self.data_dir / "system.log").open("ab")
        said_before = self.log.tell()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "disco_server"],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

        async def started() -> bool:
            # The gateway may be ready a moment before the launcher knows: what dies until then ends the start.
            said = (self.data_dir / "system.log").read_bytes()[said_before:]
            return await self.is_ready() and f"Ready at {self.url} ".encode() in said

        await eventually(started, START_S)

    async def is_ready(self) -> bool:
        assert self.process.poll() is None, f"the system ended early:\n{self.output()}"
        return (await self.get("readyz"))[0] == 200

    def output(self) -> str:
        return (self.data_dir / "system.log").read_text(errors="replace")[-8000:]

    async def stop(self) -> int:
        """Ends it as Ctrl-C does; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = await asyncio.to_thread(self.process.wait, 60)
        if self.log is not None:
            self.log.close()
        return code

    def kill_everything(self) -> None:
        """Ends it as a loss of power does, as far as processes can tell: nobody gets to say a word."""
        victims = [self.process.pid, *self.children().values()]
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):  # they die with the launcher
                os.kill(victim, signal.SIGKILL)
        self.process.wait(30)
        if self.log is not None:
            self.log.close()

    def children(self) -> dict[str, int]:
        """Process ids by name: the four processes, and `redis`; of several aggregators, all but the first with their
        port behind a colon."""
        found: dict[str, int] = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except (OSError, IndexError):
                continue  # it ended while we looked
            if parent != self.process.pid:
                continue
            line = b" ".join(words).decode(errors="replace")
            name = next((name for name, module in MODULES.items() if f"-m {module}" in line), None)
            if name is None and "redis" in line:
                name = "redis"
            if name == "aggregator" and (port := _aggregator_port(folder)) != self.aggregator_address.split(":")[1]:
                name = f"aggregator:{port}"
            if name is not None:
                found[name] = int(folder.name)
        return found

    async def kill(self, name: str) -> None:
        """kill -9 of one process, and returns when another one stands in its place."""
        before = self.children()[name]
        os.kill(before, signal.SIGKILL)

        async def replaced() -> bool:
            return self.children().get(name, before) != before

        await eventually(replaced, START_S)

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """One HTTP request; status 0 where nobody answered."""
        request = urllib.request.Request(self.url + path, headers=dict(headers or {}))

        def fetch() -> tuple[int, bytes]:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as refused:
                return refused.code, refused.read()
            except OSError:
                return 0, b""

        return await asyncio.to_thread(fetch)

    def ledger(self, task_id: str) -> list[dict[str, Any]]:
        """The ledger entries of all versions after 0, in order, read from the blob store."""
        folder = self.data_dir / "tasks" / task_id / "versions"
        return [json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]

    def weights(self, task_id: str, digest: str) -> bytes:
        """The weights of a version, read from the blob store."""
        (found,) = {path.read_bytes() for path in (self.data_dir / "tasks" / task_id / "weights").glob(f"*{digest}")}
        return found

    def record(self, task_id: str) -> dict[str, Any]:
        """The task record, read from the blob store."""
        record: dict[str, Any] = json.loads((self.data_dir / "tasks" / task_id / "task.json").read_bytes())
        return record


def _aggregator_port(folder: Path) -> str:
    """The port that a process was told to listen on; empty where it ended while we looked."""
    try:
        words = (folder / "environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    own = (word.removeprefix(b"DISCO_AGGREGATOR_PORT=") for word in words if word.startswith(b"DISCO_AGGREGATOR_PORT="))
    return next(own, b"").decode()
