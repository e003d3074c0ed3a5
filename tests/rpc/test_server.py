"""A server from its start to its last call."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from learning.refusals import ShuttingDown, StoreUnavailable
from rpc.channel import connect
from rpc.server import CannotListen
from rpc.settings import ServerSettings
from tests.rpc.echo_service import SERVICE, call, echo_handlers, running
from tests.waiting import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def nothing(_request: bytes, _context: Any) -> None:
    return


async def health_of(channel: grpc.aio.Channel, service: str) -> int:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


def free_port() -> int:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        return int(placeholder.getsockname()[1])


async def test_health_is_reported_for_the_process_and_for_each_service() -> None:
    async with running(echo_handlers(nothing)) as server, connect(server.target) as channel:
        assert [await health_of(channel, name) for name in ("", SERVICE)] == [SERVING, SERVING]


async def test_reflection_lists_the_services() -> None:
    async with running(echo_handlers(nothing)) as server, connect(server.target) as channel:
        stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await stream.read()
        await stream.done_writing()
    listed = {service.name for service in answer.list_services_response.service}
    assert listed == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


@pytest.mark.parametrize("settings", [ServerSettings()], ids=["plain"])
async def test_a_taken_port_is_refused_by_name_and_not_shared(settings: ServerSettings) -> None:
    async with running(echo_handlers(nothing), settings=settings) as first:
        with pytest.raises(CannotListen) as caught:
            async with running(echo_handlers(nothing), port=first.port):
                raise AssertionError("two servers share a port")
    assert caught.value.address == first.target
    assert str(caught.value) == (
        f"Cannot listen on {first.target}: Address already in use. Stop what listens there, or choose another address."
    )


async def test_an_address_that_is_not_ours_is_refused_by_name() -> None:
    with pytest.raises(CannotListen, match=r"Cannot listen on 192\.0\.2\.1:0: Cannot assign requested address\."):
        async with running(echo_handlers(nothing), host="192.0.2.1"):
            raise AssertionError("listens on an address of a documentation network")


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
async def test_an_address_of_ipv6_is_put_in_brackets() -> None:
    try:
        with socket.socket(socket.AF_INET6) as attempt:
            attempt.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with running(echo_handlers(nothing), host="::1") as server, connect(f"[::1]:{server.port}") as channel:
        assert await call(channel, "UnaryUnary") == [b"answer"]


async def refuses_calls(channel: grpc.aio.Channel) -> bool:
    try:
        await call(channel, "UnaryUnary")
    except (StoreUnavailable, ShuttingDown):  # by the listener, or by the connection
        return True
    return False


async def test_a_call_in_flight_may_finish_while_new_ones_are_refused() -> None:
    entered, finish = asyncio.Event(), asyncio.Event()

    async def body(request: bytes, _context: Any) -> None:
        if request == b"slow":
            entered.set()
            await finish.wait()

    async with running(echo_handlers(body)) as server, connect(server.target) as channel, asyncio.timeout(20):
        slow = asyncio.create_task(call(channel, "UnaryUnary", b"slow"))
        await entered.wait()
        server.stop.set()
        await eventually(lambda: refuses_calls(channel))
        assert not slow.done()
        finish.set()
        assert await slow == [b"answer"]
        await server.finished


async def test_a_call_that_does_not_finish_within_the_grace_period_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpc.server.GRACE_S", 0.1)
    entered = asyncio.Event()

    async def body(_request: bytes, _context: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    async with running(echo_handlers(body)) as server, connect(server.target) as channel, asyncio.timeout(10):
        stuck = asyncio.create_task(call(channel, "UnaryUnary"))
        await entered.wait()
        server.stop.set()
        with pytest.raises((StoreUnavailable, ShuttingDown)):  # both are repeated elsewhere
            await stuck
        await server.finished


async def test_a_watcher_of_the_health_is_told_and_does_not_hold_the_process_up() -> None:
    async with running(echo_handlers(nothing)) as server, connect(server.target) as channel, asyncio.timeout(5):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == SERVING
        server.stop.set()
        assert (await watch.read()).status == NOT_SERVING
        with pytest.raises(ShuttingDown):
            await watch.read()
        await server.finished


async def test_readiness_decides_what_health_says_and_the_process_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpc.server.READINESS_PERIOD_S", 0.02)
    hanging = "asks a Redis that does not answer"
    answers: dict[str, Any] = {"now": True}

    async def readiness() -> bool:
        if isinstance(answers["now"], Exception):
            raise answers["now"]
        if answers["now"] is hanging:
            await asyncio.Event().wait()
        return bool(answers["now"])

    async with (
        running(echo_handlers(nothing), readiness=readiness) as server,
        connect(server.target) as channel,
        asyncio.timeout(20),
    ):
        for name in ("", SERVICE):
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=name))
            statuses = _statuses(watch)
            await _reaches(statuses, SERVING)
            for outage in (False, StoreUnavailable(), ValueError("a bug in the question"), hanging):
                answers["now"] = outage
                await _reaches(statuses, NOT_SERVING)
                assert await call(channel, "UnaryUnary") == [b"answer"]
                answers["now"] = True
                await _reaches(statuses, SERVING)
            watch.cancel()


async def test_a_process_that_was_never_ready_is_not_reported_as_serving(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Event()

    async def hanging() -> bool:
        asked.set()
        await asyncio.Event().wait()
        return True

    async with running(echo_handlers(nothing), readiness=hanging) as server, connect(server.target) as channel:
        async with asyncio.timeout(10):
            await asked.wait()
        assert [await health_of(channel, name) for name in ("", SERVICE)] == [NOT_SERVING, NOT_SERVING]


async def _statuses(watch: Any) -> AsyncIterator[int]:
    async for answer in watch:
        yield int(answer.status)


async def _reaches(statuses: AsyncIterator[int], wanted: int) -> None:
    async for status in statuses:
        if status == wanted:
            return


async def test_metrics_are_served_while_the_server_runs_and_not_after() -> None:
    port = free_port()
    registry = CollectorRegistry()

    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    async with running(echo_handlers(nothing), metrics_port=port, registry=registry) as server:
        async with connect(server.target) as channel:
            await call(channel, "UnaryUnary")
        text = await asyncio.to_thread(read)
    assert 'disco_rpc_calls_total{code="OK",method="/test.Echo/UnaryUnary"} 1.0' in text
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(read)


async def test_a_taken_metrics_port_is_refused_by_name() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=rf"Cannot listen on 127\.0\.0\.1:{port}: Address already in use\."):
            async with running(echo_handlers(nothing), metrics_port=port):
                raise AssertionError("two servers share a port")


PROCESS = """
import asyncio, sys
from rpc import logs
from rpc.server import run, serve
from rpc.settings import ServerSettings
async def main():
    assert type(asyncio.get_running_loop()).__module__.startswith("uvloop") or sys.platform == "win32"
    await serve(
        lambda server: None, names=["test.Nothing"], host="127.0.0.1", port=int(sys.argv[1]),
        settings=ServerSettings(), ready=lambda port: print(port, flush=True),
    )
    print("stopped", flush=True)
logs.configure("test")
run(main())
"""


async def _process(port: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", PROCESS, str(port)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_drains_and_ends_well_on_a_signal(number: signal.Signals) -> None:
    process = await _process(0)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            port = int(await process.stdout.readline())
            async with connect(f"127.0.0.1:{port}") as channel:
                assert await health_of(channel, "test.Nothing") == SERVING
            process.send_signal(number)
            assert await process.stdout.readline() == b"stopped\n"
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_process_whose_port_is_taken_says_so_in_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = await _process(port)
        async with asyncio.timeout(20):
            output, errors = await process.communicate()
    assert process.returncode == 1
    assert output == b""
    last = errors.decode().splitlines()[-1]
    assert last.startswith(f"Cannot listen on 127.0.0.1:{port}: Address already in use.")
    assert b"Traceback" not in errors
