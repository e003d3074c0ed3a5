"""The composed system in a test: `docker compose` as a user calls it, under a project name and a port of the test."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.system import free_ports
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
HEALTHY_S = 120.0


@dataclass
class ComposedSystem:
    """Containers of one project; `down` keeps its volumes, `remove` does not."""

    project: str

    def __post_init__(self) -> None:
        (self.port,) = free_ports(1)

    def compose(self, *arguments: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DISCO_")}
        return run(
            [*_compose(), "--project-name", self.project, *arguments],
            {**environment, "DISCO_GATEWAY_PORT": str(self.port), "DISCO_DEFAULT_TASKS": "digits"},
        )

    async def up(self, *, aggregators: int) -> None:
        self.compose("up", "--build", "--detach", "--scale", f"aggregator={aggregators}")
        await self.until_healthy(aggregators + 4)

    def down(self) -> None:
        self.compose("down")

    def remove(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans")

    async def until_healthy(self, count: int) -> None:
        """Returns when so many containers are there and all of them are healthy."""

        async def healthy() -> bool:
            states = [one["State"].get("Health", {}).get("Status") for one in self.containers()]
            return states == ["healthy"] * count

        await eventually(healthy, HEALTHY_S)

    def containers(self, service: str = "") -> list[dict[str, Any]]:
        """What the engine knows of the containers, or of those of a service."""
        ids = self.compose("ps", "--quiet", *([service] if service else [])).split()
        found: list[dict[str, Any]] = json.loads(run(["docker", "inspect", *ids])) if ids else []
        return found

    def aggregator_target(self) -> str:
        """All aggregators, as the host of the engine reaches them."""
        networks = [one["NetworkSettings"]["Networks"] for one in self.containers("aggregator")]
        return "ipv4:" + ",".join(f"{one[f'{self.project}_calls']['IPAddress']}:50052" for one in networks)

    def kill(self, service: str = "") -> None:
        """kill -9 of the processes themselves, from outside: to the engine that is a crash, and not a wish."""
        for container in self.containers(service):
            os.kill(container["State"]["Pid"], signal.SIGKILL)

    async def restarted(self, before: dict[str, str]) -> None:
        """Returns when every container was started after it was seen by `starts`, and is healthy."""

        async def all_new() -> bool:
            now = self.starts()
            return now.keys() == before.keys() and all(now[name] != before[name] for name in before)

        await eventually(all_new, HEALTHY_S)
        await self.until_healthy(len(before))

    def starts(self, service: str = "") -> dict[str, str]:
        """When each container was started, by its name."""
        return {one["Name"]: one["State"]["StartedAt"] for one in self.containers(service)}

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path, headers={"Accept": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def _compose() -> list[str]:
    """The plugin where there is one, else the program of its own."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return ["docker", "compose"] if plugin.returncode == 0 or not shutil.which("docker-compose") else ["docker-compose"]


def run(command: list[str], environment: dict[str, str] | None = None) -> str:
    """What a command printed. Fails with all of it."""
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, f"{' '.join(command)}:\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout
