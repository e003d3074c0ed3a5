"""Fixtures of the gateway's tests: recorders for services, and a gateway over them, with and without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from gateway.app import Gateway, create_app
from gateway.service_clients import ServiceClients
from gateway.settings import GatewaySettings
from gateway.web_server import WebServer, listen, new_server
from learning.task import Scheme
from tests.gateway.recorders import Services
from tests.waiting import eventually

LIMIT = 1 << 20


@pytest_asyncio.fixture
async def services() -> AsyncIterator[Services]:
    """Recorders with a federated task `fed` and a decentralized task `dec`."""
    running = Services()
    running.store.add("fed")
    running.store.add("dec", Scheme.DECENTRALIZED)
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
def settings(services: Services, request: pytest.FixtureRequest) -> GatewaySettings:
    """A parameter is settings of the test's own."""
    return GatewaySettings(
        task_service_address=services.address,
        aggregator_address=services.address,
        signaling_address=services.address,
        max_message_bytes=LIMIT,
        poll_hold_s=0.2,
        **getattr(request, "param", {}),
    )


@pytest_asyncio.fixture
async def clients(settings: GatewaySettings) -> AsyncIterator[ServiceClients]:
    """Channels to the recorders, for parts of a gateway."""
    opened = ServiceClients.open(settings)
    yield opened
    await opened.close()


@dataclass
class Running:
    """A gateway with a server around it."""

    app: Gateway
    server: WebServer
    port: int
    registry: CollectorRegistry

    @property
    def socket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest_asyncio.fixture
async def gateway(settings: GatewaySettings) -> AsyncIterator[Running]:
    """A gateway that listens on a free port."""
    registry = CollectorRegistry()
    clients = ServiceClients.open(settings)
    app = create_app(settings, clients, registry=registry)
    server = new_server(app, settings)
    with listen("127.0.0.1", 0) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))

        async def started() -> bool:
            return server.started

        await eventually(started)
        yield Running(app, server, listening.getsockname()[1], registry)
        await app.drain()
        server.should_exit = True
        await serving
    await clients.close()


@pytest_asyncio.fixture
async def http(settings: GatewaySettings) -> AsyncIterator[httpx.AsyncClient]:
    """HTTP to a gateway without a server."""
    clients = ServiceClients.open(settings)
    app = create_app(settings, clients, registry=CollectorRegistry())
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
        yield client
    await clients.close()
