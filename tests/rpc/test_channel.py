"""Channels that find their way back, calls that raise our errors, and attempts that are repeated."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Generator
from typing import Any

import grpc
import pytest

from learning.refusals import DiscoError, RoundStale, ShuttingDown, StoreUnavailable, TooLarge
from rpc.channel import TranslatedCall, connect, retrying
from rpc.chunks import CHUNK_BYTES, MAX_FRAME_BYTES, Written
from tests.rpc.echo_service import METHODS, SERVICE, call, echo_handlers, running


async def nothing(_request: bytes, _context: Any) -> None:
    return


async def refuse(_request: bytes, _context: Any) -> None:
    raise RoundStale(round=3, current_round=5)


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_of_any_kind_raises_our_error(method: str) -> None:
    async with running(echo_handlers(refuse)) as server, connect(server.target) as channel:
        with pytest.raises(RoundStale) as caught:
            await call(channel, method)
    assert caught.value.variables == {"round": "3", "current_round": "5"}


async def test_reading_message_by_message_raises_our_error_after_the_messages() -> None:
    async with running(echo_handlers(refuse)) as server, connect(server.target) as channel:
        stream = channel.unary_stream(f"/{SERVICE}/UnaryStream")(b"")
        assert await stream.read() == b"first"
        with pytest.raises(RoundStale):
            await stream.read()


async def write_on(stream: Any, message: bytes) -> None:
    async with asyncio.timeout(10):
        while True:
            await stream.write(message)


async def read_on(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


@pytest.mark.parametrize("size", [1, CHUNK_BYTES])
async def test_writing_raises_the_refusal_and_not_that_writing_failed(size: int) -> None:
    async with running(echo_handlers(refuse)) as server, connect(server.target) as channel:
        for _ in range(10):  # gRPC alone reports "Internal error from Core" nearly every time
            stream = channel.stream_stream(f"/{SERVICE}/StreamStream")()
            reading = asyncio.create_task(read_on(stream))  # the status comes after the messages before it
            with pytest.raises(RoundStale):
                await write_on(stream, bytes(size))
            with pytest.raises(RoundStale):
                await stream.write(b"x")
            await stream.done_writing()
            with pytest.raises(RoundStale):
                await reading


async def test_an_endless_upload_ends_with_the_refusal() -> None:
    async def requests() -> AsyncIterator[bytes]:
        while True:
            yield bytes(CHUNK_BYTES)

    async with running(echo_handlers(refuse)) as server, connect(server.target) as channel:
        with pytest.raises(RoundStale):
            await channel.stream_unary(f"/{SERVICE}/StreamUnary")(requests())


async def test_messages_that_are_written_already_travel_as_they_are() -> None:
    received: list[bytes] = []

    async def body(request: bytes, _context: Any) -> None:
        received.append(request)

    async with running(echo_handlers(body)) as server, connect(server.target) as channel:
        method = channel.stream_unary(f"/{SERVICE}/StreamUnary", request_serializer=str.encode)
        await method(iter(["a message", Written(b"\xff as it is")]))
        unary = channel.unary_unary(f"/{SERVICE}/UnaryUnary", request_serializer=str.encode)
        await unary("a message")
        await unary(Written(b"\xff as it is"))
    assert received == 2 * [b"a message", b"\xff as it is"]


async def test_a_write_after_a_call_that_succeeded_is_a_bug_of_the_caller() -> None:
    async with running(echo_handlers(nothing)) as server, connect(server.target) as channel:
        stream = channel.stream_unary(f"/{SERVICE}/StreamUnary")()
        await stream.wait_for_connection()
        await stream.done_writing()
        assert await stream == b"answer"
        with pytest.raises(asyncio.InvalidStateError):
            await stream.write(b"x")


async def test_nobody_listening_is_store_unavailable() -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        async with connect(f"127.0.0.1:{placeholder.getsockname()[1]}") as channel:
            with pytest.raises(StoreUnavailable):
                await call(channel, "UnaryUnary")


async def test_a_call_that_takes_too_long_is_store_unavailable() -> None:
    async def forever(_request: bytes, _context: Any) -> None:
        await asyncio.Event().wait()

    async with running(echo_handlers(forever)) as server, connect(server.target) as channel:
        with pytest.raises(StoreUnavailable):
            await call(channel, "UnaryUnary", timeout=0.05)


@pytest.mark.parametrize(("method", "seconds"), [("UnaryUnary", 20), ("StreamUnary", 120)])
async def test_a_call_with_one_answer_has_a_deadline_of_its_own(method: str, seconds: float) -> None:
    remaining: list[float] = []

    async def body(_request: bytes, context: Any) -> None:
        remaining.append(context.time_remaining())

    async with running(echo_handlers(body)) as server, connect(server.target) as channel:
        await call(channel, method)
        await call(channel, method, timeout=7)
    assert seconds - 5 < remaining[0] < seconds + 1
    assert 2 < remaining[1] < 8


@pytest.mark.parametrize("size", [MAX_FRAME_BYTES, MAX_FRAME_BYTES + 1])
async def test_messages_up_to_the_frame_limit_pass(size: int) -> None:
    async def body(request: bytes, _context: Any) -> None:
        assert len(request) == size

    async with running(echo_handlers(body)) as server, connect(server.target) as channel:
        if size <= MAX_FRAME_BYTES:
            assert await call(channel, "UnaryUnary", bytes(size)) == [b"answer"]
        else:
            with pytest.raises(DiscoError, match="RESOURCE_EXHAUSTED"):
                await call(channel, "UnaryUnary", bytes(size))


async def test_leaving_a_loop_over_a_stream_cancels_it_without_the_garbage_collector() -> None:
    gone = asyncio.Event()

    async def body(_request: bytes, _context: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()

    async with running(echo_handlers(body)) as server, connect(server.target) as channel:
        gc.disable()
        try:
            async for message in channel.unary_stream(f"/{SERVICE}/UnaryStream")(b""):
                assert message == b"first"
                break
            async with asyncio.timeout(10):
                await gone.wait()
        finally:
            gc.enable()


class CancelledByItself:
    """A call as gRPC leaves it where its deadline comes while the end of the stream is being sent."""

    def add_done_callback(self, _callback: object) -> None: ...

    def cancel(self) -> None: ...

    def __await__(self) -> Generator[Any, None, None]:
        yield from asyncio.sleep(0).__await__()
        raise asyncio.CancelledError


async def test_a_call_that_grpc_cancels_by_itself_does_not_end_the_task_that_waits_for_it() -> None:
    with pytest.raises(StoreUnavailable):
        await TranslatedCall(CancelledByItself())


async def test_whoever_is_cancelled_while_waiting_for_a_call_is_cancelled() -> None:
    async def wait() -> None:
        await TranslatedCall(CancelledByItself())

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_service_that_was_restarted_is_found_again_by_the_same_channel() -> None:
    async with running(echo_handlers(nothing)) as server, connect(server.target) as channel:
        assert await call(channel, "UnaryUnary") == [b"answer"]
        server.stop.set()
        await server.finished
        with pytest.raises(StoreUnavailable):
            await call(channel, "UnaryUnary")
        async with running(echo_handlers(nothing), port=server.port):
            assert await retrying(lambda: call(channel, "UnaryUnary"), seconds=10) == [b"answer"]


async def test_a_new_channel_does_not_share_the_failures_of_an_earlier_one() -> None:
    async with running(echo_handlers(nothing)) as server:
        earlier = connect(server.target)
        await call(earlier, "UnaryUnary")
    with pytest.raises(StoreUnavailable):
        await call(earlier, "UnaryUnary")  # from now on it pauses for a second
    async with running(echo_handlers(nothing), port=server.port), connect(server.target) as channel:
        await call(channel, "UnaryUnary")
    await earlier.close()


async def test_calls_go_to_all_replicas_and_pass_over_one_that_stopped() -> None:
    answered: list[str] = []

    def body_of(name: str) -> Any:
        async def body(_request: bytes, _context: Any) -> None:
            answered.append(name)

        return body

    async with (
        running(echo_handlers(body_of("a"))) as a,
        running(echo_handlers(body_of("b"))) as b,
        connect(f"ipv4:{a.target},{b.target}") as channel,
        asyncio.timeout(20),
    ):
        while set(answered) != {"a", "b"}:
            await call(channel, "UnaryUnary")
        a.stop.set()
        await a.finished
        answered.clear()
        for _ in range(4):
            await retrying(lambda: call(channel, "UnaryUnary"), seconds=10)
    assert answered == ["b", "b", "b", "b"]


class Clock:
    """Time that passes only in the pauses of `retrying`."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.mark.parametrize("error", [StoreUnavailable(), ShuttingDown()])
async def test_an_attempt_is_repeated_until_it_succeeds(error: DiscoError) -> None:
    clock, outcomes = Clock(), [error, error, None]

    async def attempt() -> str:
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome
        return "done"

    assert await retrying(attempt, seconds=10, clock=clock, pause=clock.pause, chance=lambda: 1.0) == "done"
    assert clock.pauses == [0.05, 0.1]


async def test_pauses_double_up_to_two_seconds_and_the_last_error_is_raised_in_time() -> None:
    clock, errors = Clock(), []

    async def attempt() -> None:
        errors.append(StoreUnavailable())
        raise errors[-1]

    with pytest.raises(StoreUnavailable) as caught:
        await retrying(attempt, seconds=8, clock=clock, pause=clock.pause, chance=lambda: 1.0)
    assert caught.value is errors[-1]
    assert clock.pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert clock.now <= 108


async def test_pauses_are_drawn_from_all_of_their_range() -> None:
    clock, chances, failures = Clock(), [0.0, 0.5], 2

    async def attempt() -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreUnavailable

    await retrying(attempt, seconds=10, clock=clock, pause=clock.pause, chance=lambda: chances.pop(0))
    assert clock.pauses == [0.0, 0.05]


@pytest.mark.parametrize("error", [TooLarge(limit_bytes=1), RoundStale(round=1, current_round=2), KeyError("bug")])
async def test_nothing_else_is_repeated(error: Exception) -> None:
    clock, attempts = Clock(), 0

    async def attempt() -> None:
        nonlocal attempts
        attempts += 1
        raise error

    with pytest.raises(type(error)):
        await retrying(attempt, seconds=10, clock=clock, pause=clock.pause)
    assert (attempts, clock.pauses) == (1, [])


async def test_the_environments_proxy_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:1")
    async with running(echo_handlers(nothing)) as server, connect(server.target) as channel:
        assert await call(channel, "UnaryUnary") == [b"answer"]


async def test_the_state_of_a_channel_can_be_watched() -> None:
    async with running(echo_handlers(nothing)) as server, connect(server.target) as channel:
        async with asyncio.timeout(10):
            await channel.channel_ready()
            assert channel.get_state() is grpc.ChannelConnectivity.READY
            server.stop.set()
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        assert channel.get_state() is not grpc.ChannelConnectivity.READY
