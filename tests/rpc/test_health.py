"""What the health question answers, in the process and as a command."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from rpc.health import is_serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Answering:
    """A process that says what a test wants it to say."""

    def __init__(self, servicer: health.aio.HealthServicer, port: int) -> None:
        self.servicer = servicer
        self.target = f"127.0.0.1:{port}"


@pytest_asyncio.fixture
async def process() -> AsyncIterator[Answering]:
    servicer = health.aio.HealthServicer()
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield Answering(servicer, port)
    await server.stop(None)


async def command(*arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "rpc.health", *arguments),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    return process.returncode, errors.decode()


async def test_process_that_serves_is_healthy(process: Answering) -> None:
    await process.servicer.set("", SERVING)
    assert await is_serving(process.target)
    assert await command(process.target) == (0, "")


async def test_process_that_drains_is_not_healthy(process: Answering) -> None:
    await process.servicer.set("", NOT_SERVING)
    assert not await is_serving(process.target)
    assert await command(process.target) == (1, f"{process.target} does not serve.\n")


async def test_one_service_may_be_healthy_while_another_is_not(process: Answering) -> None:
    await process.servicer.set("one", SERVING)
    await process.servicer.set("two", NOT_SERVING)
    assert await is_serving(process.target, service="one")
    assert not await is_serving(process.target, service="two")
    assert not await is_serving(process.target, service="unknown")
    assert await command(process.target, "--service", "two") == (1, f"{process.target} does not serve.\n")


async def test_nobody_there_is_not_healthy_and_is_as_soon_as_somebody_is() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{listener.getsockname()[1]}"
    assert not await is_serving(target)
    server, servicer = grpc.aio.server(), health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await servicer.set("", SERVING)
    server.add_insecure_port(target)
    await server.start()
    assert await is_serving(target)  # the failure before is not remembered
    await server.stop(None)


@pytest.mark.parametrize("proxy", ["http_proxy", "grpc_proxy"])
async def test_proxy_of_the_environment_is_not_asked(
    process: Answering, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(proxy, "http://127.0.0.1:1")
    await process.servicer.set("", SERVING)
    assert await is_serving(process.target)
