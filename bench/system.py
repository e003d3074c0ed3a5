"""The system under load: `disco-server` as a user starts it, on free ports, with an empty directory; what it costs.

Costs are read from /proc, so on Linux only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from disco_server.ports import WantedPort, find_free

START_S = 60.0
KEPT_VERSIONS = 20
"""Few, so that a new version soon takes the room of an old one, as it does for good in a task that has run longer."""
STOP_S = 60.0
WORDS = ("GATEWAY", "TASK_SERVICE", "AGGREGATOR", "SIGNALING")
MODULES = {"gateway": b"gateway", "task service": b"services.task_service", "aggregator": b"services.aggregator"}
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process has used so far."""

    cpu_s: float
    rss_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class System:
    """One that is running."""

    gateway_port: int
    task_service: str
    aggregator: str
    data_dir: Path
    pids: dict[str, list[int]]
    """By name; there may be several aggregators."""

    def cost(self, name: str) -> Cost:
        """Of all processes of that name: what they used together, and the memory of the largest one."""
        costs = [cost_of(pid) for pid in self.pids[name]]
        return Cost(
            sum(cost.cpu_s for cost in costs),
            max(cost.rss_bytes for cost in costs),
            max(cost.peak_bytes for cost in costs),
        )

    def forget_peak(self, name: str) -> None:
        """From now on the peak of its memory begins anew."""
        for pid in self.pids[name]:
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def costs(self) -> dict[str, Cost]:
        return {name: self.cost(name) for name in self.pids}


def cost_of(pid: int) -> Cost:
    """Of all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    sizes = {
        line.split(":")[0]: int(line.split()[1]) << 10
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith(("VmRSS", "VmHWM"))
    }
    return Cost((int(fields[11]) + int(fields[12])) / _TICKS_PER_S, sizes["VmRSS"], sizes["VmHWM"])


def machine_cpu_s() -> float:
    """Seconds that all cores together were busy."""
    user, nice, kernel, _idle, _wait, *more = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    return (user + nice + kernel + sum(more[:2])) / _TICKS_PER_S


@contextmanager
def running(*, aggregators: int = 1) -> Iterator[System]:
    """A system, until the block ends; its directory goes with it."""
    ports = find_free([WantedPort(f"DISCO_{word}_PORT", "", "127.0.0.1", 0) for word in WORDS])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DISCO_")}
    for word, port in zip(WORDS, ports, strict=True):
        environment |= {f"DISCO_{word}_PORT": str(port), f"DISCO_{word}_METRICS_PORT": "0"}
    environment["DISCO_AGGREGATORS"] = str(aggregators)
    environment["DISCO_KEPT_VERSIONS"] = str(KEPT_VERSIONS)
    environment |= {"DISCO_DEFAULT_TASKS": "none", "DISCO_DURABILITY": "second", "DISCO_LOG_LEVEL": "warning"}
    with tempfile.TemporaryDirectory(prefix="disco-bench-") as folder:
        log = Path(folder, "system.log")
        with log.open("wb") as output:
            launcher = subprocess.Popen(  # noqa: S603 (a command of our own)
                [sys.executable, "-m", "disco_server", "--data-dir", str(Path(folder, "data"))],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            _wait_until_ready(ports[0], launcher, log=log)
            addresses = [f"127.0.0.1:{port}" for port in ports]
            yield System(ports[0], addresses[1], addresses[2], Path(folder, "data"), _pids(launcher.pid))
        finally:
            launcher.send_signal(signal.SIGINT)
            try:
                launcher.wait(STOP_S)
            except subprocess.TimeoutExpired:
                launcher.kill()
                raise


def _wait_until_ready(port: int, launcher: subprocess.Popen[bytes], *, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and launcher.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    sys.exit("The system did not start:\n" + log.read_text(errors="replace"))


def _pids(launcher: int) -> dict[str, list[int]]:
    """Process ids by name, `redis` among them."""
    found: dict[str, list[int]] = {}
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue  # no process, or one that ended while we looked
        if parent == launcher:
            name = next((name for name, module in MODULES.items() if module in words), None)
            if name is None and b"redis" in words[0]:
                name = "redis"
            if name is not None:
                found.setdefault(name, []).append(int(folder.name))
    return found
