"""How a process calls another one: a channel that finds its way back, and calls that raise our errors.

A call on a stub over `connect` raises DiscoErrors only, carries the request id and
the token, and has a deadline where its answer is one message (streams are given
theirs by their callers, or none where they have no end). `retrying` is the only
place in Disco that repeats calls. Knows no method of ours.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import structlog

from learning.refusals import ShuttingDown, StoreUnavailable
from rpc.chunks import MAX_FRAME_BYTES
from rpc.credentials import channel_credentials, token_metadata
from rpc.interceptors import REQUEST_ID_KEY
from rpc.settings import ProcessSettings
from rpc.status import from_rpc_error, translated

CALL_DEADLINE_S = 20.0
UPLOAD_DEADLINE_S = 120.0
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0

_OPTIONS = (
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ("grpc.enable_http_proxy", 0),  # a proxy of the environment is not meant for calls among ourselves
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
    ("grpc.max_send_message_length", MAX_FRAME_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A service that was restarted, perhaps under another address, is to be found again within about a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
)

Result = TypeVar("Result")


def connect(target: str, settings: ProcessSettings | None = None) -> grpc.aio.Channel:
    """A channel to all replicas behind a gRPC target ("127.0.0.1:50052", "dns:///aggregator:50052")."""
    credentials = channel_credentials(settings) if settings else None
    if credentials is None:
        channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
    else:
        channel = grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
    return DiscoChannel(channel, token_metadata(settings) if settings else ())


async def retrying(
    attempt: Callable[[], Awaitable[Result]],
    *,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    chance: Callable[[], float] = random.random,
) -> Result:
    """Repeats an attempt that is safe to repeat while it fails with StoreUnavailable or ShuttingDown.

    Pauses between attempts are drawn from 0 to a bound that doubles from 50 ms to
    2 s, so that callers do not come back all at once. No attempt starts after `seconds`;
    the last error is raised then.
    """
    end = clock() + seconds
    bound = FIRST_PAUSE_S
    while True:
        try:
            return await attempt()
        except (StoreUnavailable, ShuttingDown):
            wait = bound * chance()
            if clock() + wait > end:
                raise
        await pause(wait)
        bound = min(2 * bound, LONGEST_PAUSE_S)


class DiscoChannel(grpc.aio.Channel):
    """A channel whose calls carry our metadata, have deadlines and raise our errors."""

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self._channel = channel
        self._metadata = metadata

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        return _Method(self._channel.unary_unary(*args, **options), self._metadata, deadline=CALL_DEADLINE_S)

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        return _Method(self._channel.unary_stream(*args, **options), self._metadata, deadline=None)

    def stream_unary(self, *args: Any, **options: Any) -> Any:
        return _Method(self._channel.stream_unary(*args, **options), self._metadata, deadline=UPLOAD_DEADLINE_S)

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        return _Method(self._channel.stream_stream(*args, **options), self._metadata, deadline=None)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()


class _Method:
    """One method of a stub."""

    def __init__(self, start: Any, metadata: tuple[tuple[str, str], ...], *, deadline: float | None) -> None:
        self._start = start
        self._metadata = metadata
        self._deadline = deadline

    def __call__(
        self, request: Any = None, *, timeout: float | None = None, metadata: Any = (), **options: Any
    ) -> TranslatedCall:
        bound = structlog.contextvars.get_contextvars().get("request_id")
        request_id = ((REQUEST_ID_KEY, str(bound)),) if bound else ()
        call = self._start(
            request,
            timeout=self._deadline if timeout is None else timeout,
            metadata=(*self._metadata, *request_id, *(metadata or ())),
            **options,
        )
        return TranslatedCall(call)


class TranslatedCall:
    """A call that is under way: awaited, iterated, read or written like gRPC's own, but it raises our errors."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)  # cancel, done, code, initial_metadata and the like raise nothing of ours

    def __await__(self) -> Generator[Any, None, Any]:
        return self._awaited(self._call).__await__()

    def __aiter__(self) -> AsyncIterator[Any]:
        return _Messages(aiter(self._call))

    async def read(self) -> Any:
        """The next message, or grpc.aio.EOF."""
        return await self._awaited(self._call.read())

    async def write(self, request: Any) -> None:
        """Sends a message; raises what the call failed with where it is over."""
        try:
            await self._awaited(self._call.write(request))
        except asyncio.InvalidStateError:
            await self._raise_failure()
            raise

    async def done_writing(self) -> None:
        """Says that no more messages come; nothing where the call is over."""
        await self._awaited(self._call.done_writing())

    async def wait_for_connection(self) -> None:
        """Returns when the call has reached a server."""
        await self._awaited(self._call.wait_for_connection())

    @staticmethod
    async def _awaited(step: Awaitable[Any]) -> Any:
        with translated():
            return await step

    async def _raise_failure(self) -> None:
        """A write on a call that has failed says "already finished"; the status says why it failed."""
        if not self._call.done() or (code := await self._call.code()) is grpc.StatusCode.OK:
            return
        raise from_rpc_error(
            grpc.aio.AioRpcError(
                code,
                await self._call.initial_metadata(),
                await self._call.trailing_metadata(),
                details=await self._call.details(),
            )
        )


class _Messages:
    """The messages of a stream, in order."""

    def __init__(self, messages: AsyncIterator[Any]) -> None:
        self._messages = messages

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        with translated():
            return await anext(self._messages)
