"""Which processes make up the system, on which ports, and how each is told about the others.

    redis ── task service, aggregators, signaling ── gateway      (stopped from right to left)

Every process is told by `DISCO_*` variables alone. Starts nothing.
"""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from disco_server.ports import WantedPort, find_free
from disco_server.processes import ProcessPlan
from disco_server.settings import LauncherSettings
from rpc.credentials import channel_credentials
from rpc.health import is_serving

HTTP_S = 2.0
GATEWAY_GRACE_S = 30.0
"""Its sockets may need 15 seconds to settle what was sent, and its requests another 10."""
PYTHON = (sys.executable, "-P", "-m")
"""-P: a folder called `gateway` where the launcher was started is not ours."""
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""Where one listens to be reached from everywhere, and how this machine itself gets there."""


@dataclass(frozen=True, slots=True)
class Service:
    """One gRPC process."""

    name: str
    module: str
    word: str
    """What its variables begin with, after DISCO_."""
    port: int
    metrics_port: int


@dataclass(frozen=True, slots=True)
class System:
    """The processes of one launcher, ports decided."""

    settings: LauncherSettings
    services: tuple[Service, ...]
    gateway_port: int

    @property
    def gateway_host(self) -> str:
        """Where this machine reaches the gateway."""
        return reachable(self.settings.gateway_host)

    @property
    def address(self) -> str:
        """What clients are given; with the slash at the end that every generation of them understands."""
        return f"http://{bracketed(self.gateway_host)}:{self.gateway_port}/"

    def service_plans(self, environment: Mapping[str, str]) -> list[ProcessPlan]:
        """The task service, the aggregators and signaling."""
        return [self._service_plan(service, environment) for service in self.services]

    def gateway_plan(self, environment: Mapping[str, str]) -> ProcessPlan:
        """The gateway, which is told where the services are."""
        ports: dict[str, list[int]] = {}
        for service in self.services:
            ports.setdefault(service.word, []).append(service.port)
        host = self.settings.service_host
        targets = {f"DISCO_{word}_ADDRESS": target_of(host, numbers) for word, numbers in ports.items()}
        return ProcessPlan(
            name="gateway",
            command=(*PYTHON, "gateway"),
            environment={
                **environment,
                **targets,
                "DISCO_GATEWAY_HOST": self.settings.gateway_host,
                "DISCO_GATEWAY_PORT": str(self.gateway_port),
            },
            is_healthy=self.gateway_is_ready,
            grace_s=GATEWAY_GRACE_S,
        )

    async def gateway_is_ready(self) -> bool:
        """Whether the gateway answers and reaches every service."""
        status, _ = await self.get("/readyz")
        return status == http.client.OK

    async def get(self, path: str) -> tuple[int, bytes]:
        """One request to the gateway; status 0 where it does not answer."""
        return await asyncio.to_thread(self._get, path)

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.gateway_host, self.gateway_port, timeout=HTTP_S)
        try:
            connection.request("GET", path, headers={"Accept": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def _service_plan(self, service: Service, environment: Mapping[str, str]) -> ProcessPlan:
        return ProcessPlan(
            name=service.name,
            command=(*PYTHON, service.module),
            environment={
                **environment,
                f"DISCO_{service.word}_PORT": str(service.port),
                f"DISCO_{service.word}_METRICS_PORT": str(service.metrics_port),
            },
            is_healthy=self._health_of(service),
        )

    def _health_of(self, service: Service) -> Callable[[], Awaitable[bool]]:
        target = f"{bracketed(reachable(self.settings.service_host))}:{service.port}"
        credentials = channel_credentials(self.settings)
        return lambda: is_serving(target, credentials=credentials)


def decide(settings: LauncherSettings) -> System:
    """Decides every port. Raises CannotStart where one is taken."""
    wanted = [_wanted(settings, "GATEWAY", first=True)]
    if settings.gateway_metrics_port:
        wanted.append(_wanted_metrics(settings, "GATEWAY", first=True))
    for kind in _kinds(settings):
        wanted.append(_wanted(settings, kind.word, first=kind.first))
        if kind.has_metrics:
            wanted.append(_wanted_metrics(settings, kind.word, first=kind.first))
    found = iter(find_free(wanted))
    gateway_port = next(found)
    if settings.gateway_metrics_port:
        next(found)
    services = tuple(
        Service(kind.name, kind.module, kind.word, next(found), next(found) if kind.has_metrics else 0)
        for kind in _kinds(settings)
    )
    return System(settings, services, gateway_port)


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    module: str
    word: str
    first: bool
    """Whether it gets the ports of the settings; replicas get any that are free."""
    has_metrics: bool


def _kinds(settings: LauncherSettings) -> list[_Kind]:
    def kind(word: str, number: int = 1) -> _Kind:
        name = word.lower()
        return _Kind(
            name=name.replace("_", "-") + (f"-{number}" if number > 1 else ""),
            module=f"services.{name}",
            word=word,
            first=number == 1,
            has_metrics=bool(getattr(settings, f"{name}_metrics_port")),
        )

    aggregators = [kind("AGGREGATOR", number) for number in range(1, settings.aggregators + 1)]
    return [kind("TASK_SERVICE"), *aggregators, kind("SIGNALING")]


def _wanted(settings: LauncherSettings, word: str, *, first: bool) -> WantedPort:
    host_setting = "DISCO_GATEWAY_HOST" if word == "GATEWAY" else "DISCO_SERVICE_HOST"
    host = settings.gateway_host if word == "GATEWAY" else settings.service_host
    port = getattr(settings, f"{word.lower()}_port") if first else 0
    return WantedPort(f"DISCO_{word}_PORT", host_setting, host, port)


def _wanted_metrics(settings: LauncherSettings, word: str, *, first: bool) -> WantedPort:
    port = getattr(settings, f"{word.lower()}_metrics_port") if first else 0
    return WantedPort(f"DISCO_{word}_METRICS_PORT", "DISCO_METRICS_HOST", settings.metrics_host, port)


def target_of(host: str, ports: Sequence[int]) -> str:
    """The gRPC target of all replicas of a service."""
    here = reachable(host)
    if len(ports) == 1:
        return f"{bracketed(here)}:{ports[0]}"
    # Only addresses can be listed, so a name is resolved here.
    address = ipaddress.ip_address(socket.getaddrinfo(here, None)[0][4][0])
    return f"ipv{address.version}:" + ",".join(f"{bracketed(str(address))}:{port}" for port in ports)


def reachable(host: str) -> str:
    """Where this machine reaches what listens on `host`."""
    return ANYWHERE.get(host, host)


def bracketed(host: str) -> str:
    """A host as it stands in front of a port."""
    return f"[{host}]" if ":" in host else host
