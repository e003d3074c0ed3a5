"""The gateway as a process."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway.web_server import OTHER_FILES
from tests.gateway.recorders import Services
from tests.gateway.test_websocket import CLIENT, SECONDS, contribution, hear, say
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Process:
    process: asyncio.subprocess.Process
    port: int


async def start(
    services: Services, port: int, *, preexec_fn: Callable[[], None] | None = None, **more: str
) -> asyncio.subprocess.Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DISCO_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        cwd=ROOT,
        env={
            **environment,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "gen"))),
            "DISCO_GATEWAY_PORT": str(port),
            "DISCO_GATEWAY_METRICS_PORT": "0",
            "DISCO_TASK_SERVICE_ADDRESS": services.address,
            "DISCO_AGGREGATOR_ADDRESS": services.address,
            "DISCO_SIGNALING_ADDRESS": services.address,
            **more,
        },
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=preexec_fn,
    )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@pytest_asyncio.fixture
async def gateway_process(services: Services) -> AsyncIterator[Process]:
    port = free_port()
    process = await start(services, port)

    async def ready() -> bool:
        assert process.returncode is None
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    await eventually(ready, 30)
    yield Process(process, port)
    if process.returncode is None:
        process.kill()
        await process.wait()


async def test_sigterm_closes_sockets_and_settles_contributions(gateway_process: Process, services: Services) -> None:
    # What should happen: the socket is told to come back; the contribution that was received whole is acknowledged;
    # the participant leaves; the process ends with 0.
    services.aggregator.may_answer.clear()
    async with connect(f"ws://127.0.0.1:{gateway_process.port}/feai/fed/{CLIENT}") as client:
        await say(client, type=0)
        await hear(client)
        await client.send(contribution(4.0, 0))
        await asyncio.wait_for(services.aggregator.submitting.wait(), SECONDS)
        gateway_process.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(client.recv(), SECONDS)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4000
    services.aggregator.may_answer.set()
    assert await asyncio.wait_for(gateway_process.process.wait(), 20) == 0
    assert len(services.aggregator.contributions) == 1
    assert services.aggregator.left == [CLIENT]


async def test_process_may_open_as_many_files_as_its_sockets_need(services: Services) -> None:
    def allow_few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2000))

    process = await start(services, 0, preexec_fn=allow_few, DISCO_MAX_SOCKETS="1000")
    assert process.stderr is not None
    while b"gateway.started" not in (line := await asyncio.wait_for(process.stderr.readline(), 30)):
        assert process.returncode is None
    assert b"Programs of this machine may create" in line
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (1000 + OTHER_FILES, 2000)
    process.kill()
    await process.wait()


async def test_process_that_may_not_open_enough_files_says_so(services: Services) -> None:
    def allow_few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 500))

    process = await start(services, 0, preexec_fn=allow_few)
    assert process.stderr is not None
    warning = await asyncio.wait_for(process.stderr.readline(), 30)
    assert b"gateway.too_few_files" in warning
    assert b'"allowed": 500' in warning
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (500, 500)
    process.kill()
    await process.wait()


async def test_port_that_is_taken_is_one_clear_sentence(services: Services) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = await start(services, port)
        _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert said.decode() == (
        f"Cannot listen on 127.0.0.1:{port}: Address already in use. "
        "Stop what listens there, or choose another address.\n"
    )


async def test_setting_that_makes_no_sense_is_one_clear_sentence(services: Services) -> None:
    process = await start(services, 0, DISCO_POLL_HOLD_S="20")
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert said.decode() == "DISCO_POLL_HOLD_S must be a number between 0 and 9.0, not '20'.\n"
