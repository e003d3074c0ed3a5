"""Errors, request ids, metrics and the end of endless streams, for every kind of handler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import structlog
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from learning.refusals import InternalError, RoundStale, ShuttingDown, StoreUnavailable
from rpc.channel import connect
from rpc.interceptors import CallInterceptor
from rpc.metrics import CallMetrics
from rpc.status import DETAILS_KEY, translated
from tests.rpc.echo_service import METHODS, SERVICE, call, call_into, echo_handlers, running
from tests.waiting import eventually

STREAMING = tuple(method for method in METHODS if method not in ("UnaryUnary", "StreamUnary"))


async def nothing(_request: bytes, _context: Any) -> None:
    return


@pytest.mark.parametrize("method", METHODS)
async def test_a_handler_that_succeeds_is_left_alone(method: str) -> None:
    async with running(echo_handlers(nothing)) as server, grpc.aio.insecure_channel(server.target) as channel:
        assert await call(channel, method) == [b"first" if method in STREAMING else b"answer"]


@pytest.mark.parametrize("method", METHODS)
async def test_a_refusal_arrives_with_status_and_explanation_after_the_messages_before_it(method: str) -> None:
    async def body(_request: bytes, _context: Any) -> None:
        raise RoundStale(round=3, current_round=5)

    received: list[bytes] = []
    async with running(echo_handlers(body)) as server, grpc.aio.insecure_channel(server.target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_into(received, channel, method)
        with pytest.raises(RoundStale) as refusal, translated():
            await call(channel, method)
    assert received == ([b"first"] if method in STREAMING else [])
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert (caught.value.details() or "").startswith("Round 3 is over")
    assert [key for key, _ in caught.value.trailing_metadata() or ()] == [DETAILS_KEY]
    assert refusal.value.variables == {"round": "3", "current_round": "5"}


@pytest.mark.parametrize("method", METHODS)
async def test_a_bug_is_answered_as_internal_and_logged_once_with_the_request_id(method: str) -> None:
    async def body(_request: bytes, _context: Any) -> None:
        raise ZeroDivisionError("secret detail")

    async with running(echo_handlers(body)) as server, grpc.aio.insecure_channel(server.target) as channel:
        with capture_logs() as lines, pytest.raises(InternalError) as caught, translated():
            await call(channel, method, metadata=(("x-request-id", "request-7"),))
    assert caught.value.variables == {"request_id": "request-7"}
    assert "secret" not in str(caught.value)
    (line,) = [line for line in lines if line["log_level"] == "error"]
    assert (line["event"], line["method"]) == ("rpc.failed", f"/{SERVICE}/{method}")


@pytest.mark.parametrize("method", METHODS)
async def test_an_abort_by_the_handler_passes_through(method: str) -> None:
    async def body(_request: bytes, context: Any) -> None:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "mine")

    registry = CollectorRegistry()
    async with (
        running(echo_handlers(body), registry=registry) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        with capture_logs() as lines, pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, method)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.OUT_OF_RANGE, "mine")
    assert [line for line in lines if line["log_level"] == "error"] == []
    labels = {"method": f"/{SERVICE}/{method}", "code": "OUT_OF_RANGE"}
    assert registry.get_sample_value("disco_rpc_calls_total", labels) == 1


@pytest.mark.parametrize("method", METHODS)
async def test_a_caller_who_goes_cancels_the_handler_and_nothing_is_logged_as_failed(method: str) -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def body(_request: bytes, _context: Any) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    registry = CollectorRegistry()
    labels = {"method": f"/{SERVICE}/{method}", "code": "CANCELLED"}

    async def counted() -> bool:
        return registry.get_sample_value("disco_rpc_calls_total", labels) == 1

    async with (
        running(echo_handlers(body), registry=registry) as server,
        connect(server.target) as channel,
    ):
        with capture_logs() as lines:
            calling = asyncio.create_task(call(channel, method))
            async with asyncio.timeout(10):
                await entered.wait()
                calling.cancel()
                await cancelled.wait()
            await eventually(counted)
    assert [line for line in lines if line["log_level"] == "error"] == []


async def test_a_handler_that_fails_to_say_goodbye_to_a_caller_who_is_gone_is_no_bug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    entered, over = asyncio.Event(), asyncio.Event()

    async def body(_request: bytes, context: Any) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            over.set()
            await context.write(b"goodbye")

    async with running(echo_handlers(body)) as server, connect(server.target) as channel:
        caplog.clear()
        with capture_logs() as lines:
            calling = asyncio.create_task(call(channel, "UnaryStreamWritten"))
            async with asyncio.timeout(10):
                await entered.wait()
                calling.cancel()
                await over.wait()
                server.stop.set()
                await server.finished
    assert [line for line in lines if line["log_level"] == "error"] == []
    assert caplog.records == []  # gRPC would log what it does not expect


async def test_a_fault_is_logged_as_a_warning_and_a_refusal_is_not_logged() -> None:
    errors = [StoreUnavailable(), RoundStale(round=1, current_round=2)]

    async def body(_request: bytes, _context: Any) -> None:
        raise errors.pop(0)

    async with running(echo_handlers(body)) as server, connect(server.target) as channel:
        with capture_logs() as lines:
            with pytest.raises(StoreUnavailable):
                await call(channel, "UnaryUnary")
            with pytest.raises(RoundStale):
                await call(channel, "UnaryUnary")
    assert [(line["event"], line["reason"]) for line in lines if line["log_level"] == "warning"] == [
        ("rpc.fault", "STORE_UNAVAILABLE")
    ]


@pytest.mark.parametrize("method", METHODS)
async def test_the_request_id_of_the_caller_is_bound_while_the_handler_runs(method: str) -> None:
    seen: list[str] = []

    async def body(_request: bytes, _context: Any) -> None:
        seen.append(structlog.contextvars.get_contextvars()["request_id"])

    async with running(echo_handlers(body)) as server, connect(server.target) as channel:
        with structlog.contextvars.bound_contextvars(request_id="from-the-gateway"):
            await call(channel, method)
    assert seen == ["from-the-gateway"]


@pytest.mark.parametrize("given", [None, "has spaces", "x" * 129, ""])
async def test_a_missing_or_improper_request_id_is_replaced(given: str | None) -> None:
    seen: list[str] = []

    async def body(_request: bytes, _context: Any) -> None:
        seen.append(structlog.contextvars.get_contextvars()["request_id"])

    async with running(echo_handlers(body)) as server, grpc.aio.insecure_channel(server.target) as channel:
        for _ in range(2):
            await call(channel, "UnaryUnary", metadata=() if given is None else (("x-request-id", given),))
    assert len({*seen, given}) == 3
    assert all(len(request_id) == 32 for request_id in seen)


async def test_calls_are_counted_by_method_and_status() -> None:
    async def body(request: bytes, _context: Any) -> None:
        if request == b"stale":
            raise RoundStale(round=1, current_round=2)

    registry = CollectorRegistry()
    async with running(echo_handlers(body), registry=registry) as server, connect(server.target) as channel:
        for request in (b"", b"", b"stale"):
            with pytest.raises(RoundStale) if request else nullcontext():
                await call(channel, "UnaryStream", request)
    method = f"/{SERVICE}/UnaryStream"
    counts = {
        code: registry.get_sample_value("disco_rpc_calls_total", {"method": method, "code": code})
        for code in ("OK", "ABORTED", "INTERNAL")
    }
    assert counts == {"OK": 2, "ABORTED": 1, "INTERNAL": None}
    assert registry.get_sample_value("disco_rpc_seconds_count", {"method": method}) == 3


async def test_a_method_that_does_not_exist_is_unimplemented_and_not_counted() -> None:
    registry = CollectorRegistry()
    async with (
        running(echo_handlers(nothing), registry=registry) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{SERVICE}/Invented")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not any("Invented" in str(sample) for metric in registry.collect() for sample in metric.samples)


async def test_a_method_left_to_the_generated_servicer_is_unimplemented_and_no_bug() -> None:
    def generated(_request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        raise NotImplementedError("Method not implemented!")

    handlers = {"Later": grpc.unary_unary_rpc_method_handler(generated)}
    async with running(handlers) as server, grpc.aio.insecure_channel(server.target) as channel:
        with capture_logs() as lines, pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{SERVICE}/Later")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert [line for line in lines if line["log_level"] == "error"] == []


@pytest.mark.parametrize("method", STREAMING)
async def test_an_endless_stream_ends_with_shutdown_when_the_server_stops(method: str) -> None:
    waiting = asyncio.Event()

    async def body(_request: bytes, _context: Any) -> None:
        waiting.set()
        await asyncio.Event().wait()

    received: list[bytes] = []
    async with (
        running(echo_handlers(body), endless=[f"/{SERVICE}/{method}"]) as server,
        connect(server.target) as channel,
        asyncio.timeout(5),  # half of the grace period: the stream must not use it up
    ):
        calling = asyncio.create_task(call_into(received, channel, method))
        await waiting.wait()
        with capture_logs() as lines:
            server.stop.set()
            with pytest.raises(ShuttingDown):
                await calling
            await server.finished
    assert received == [b"first"]
    assert {line["log_level"] for line in lines} == {"info"}


class TestAnEarlyAnswer:
    """A handler that answers, or refuses, after the first of many megabytes."""

    CHUNKS = 12

    @staticmethod
    async def upload(target: str, *, pause: asyncio.Event | None = None) -> Any:
        """Calls as a foreign client would: without our channel."""

        async def requests() -> AsyncIterator[bytes]:
            for number in range(TestAnEarlyAnswer.CHUNKS):
                if pause is not None and number == 1:
                    await pause.wait()
                yield b"x" * (1 << 20)

        async with grpc.aio.insecure_channel(target) as channel:
            return await channel.stream_unary(f"/{SERVICE}/Early")(requests())

    @staticmethod
    def handlers(error: Exception | None) -> dict[str, Any]:
        async def early(requests: AsyncIterator[bytes], _context: Any) -> bytes:
            async for _ in requests:
                if error is not None:
                    raise error
                return b"receipt"
            raise AssertionError("nothing came")

        return {"Early": grpc.stream_unary_rpc_method_handler(early)}

    async def test_reaches_a_client_that_is_still_sending(self) -> None:
        async with running(self.handlers(None)) as server:
            assert [await self.upload(server.target) for _ in range(20)] == [b"receipt"] * 20

    async def test_of_refusal_reaches_a_client_that_is_still_sending(self) -> None:
        async with running(self.handlers(RoundStale(round=1, current_round=2))) as server:
            for _ in range(20):
                with pytest.raises(RoundStale), translated():
                    await self.upload(server.target)

    async def test_does_not_wait_for_ever_for_a_client_that_sends_no_more(self) -> None:
        async with running(self.handlers(None)) as server, asyncio.timeout(10):
            assert await self.upload(server.target, pause=asyncio.Event()) == b"receipt"


async def test_a_method_is_wrapped_once_and_again_only_around_another_handler() -> None:
    handlers: list[Any] = [grpc.unary_unary_rpc_method_handler(nothing) for _ in range(2)]
    calls = CallInterceptor(CallMetrics(CollectorRegistry()))

    async def wrapped(handler: Any) -> Any:
        async def continuation(_details: Any) -> Any:
            return handler

        return await calls.intercept_service(continuation, SimpleNamespace(method="/service/method"))

    first = await wrapped(handlers[0])
    assert await wrapped(handlers[0]) is first
    assert await wrapped(handlers[1]) is not first  # as that of an interceptor that refuses the call
    assert await wrapped(None) is None
