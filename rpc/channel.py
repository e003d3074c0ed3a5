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
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import structlog

from learning.refusals import ShuttingDown, StoreUnavailable
from rpc.chunks import MAX_FRAME_BYTES, Written
from rpc.credentials import channel_credentials, token_metadata
from rpc.interceptors import REQUEST_ID_KEY
from rpc.settings import ProcessSettings
from rpc.status import from_rpc_error

CALL_DEADLINE_S = 20.0
UPLOAD_DEADLINE_S = 120.0
STATUS_DEADLINE_S = 1.0
STATUS_PERIOD_S = 0.001
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0

_OPTIONS = (
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    # Channels would share connections, and with them the pause after a failure: one that is opened when a service is
    # back would fail at once, because another one, even one that was closed, had not found it.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),  # a proxy of the environment is not meant for calls among ourselves
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
    ("grpc.max_send_message_length", MAX_FRAME_BYTES),
    # Probing opens windows of tens of megabytes: what a slow reader has not taken would be held here, not where it
    # comes from.
    ("grpc.http2.bdp_probe", 0),
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
    """A channel to all replicas behind a gRPC target ("127.0.0.1:50052", "dns:///aggregator:50052").

    With TLS the certificate of every replica must carry the host of the target; of the
    first address, where the target is a list of them ("ipv4:127.0.0.1:50052,127.0.0.1:50062").
    """
    credentials = channel_credentials(settings) if settings else None
    options = (*_OPTIONS, *_authority(target))
    if credentials is None:
        channel = grpc.aio.insecure_channel(target, options=options)
    else:
        channel = grpc.aio.secure_channel(target, credentials, options=options)
    return DiscoChannel(channel, token_metadata(settings) if settings else ())


def _authority(target: str) -> tuple[tuple[str, str], ...]:
    """Whom we mean by a list of addresses: by default gRPC takes the whole list for a name, which none is called."""
    scheme, _, addresses = target.partition(":")
    if scheme not in ("ipv4", "ipv6") or "," not in addresses:
        return ()
    return (("grpc.default_authority", addresses.split(",")[0]),)


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

    def unary_unary(self, method: str, request_serializer: Any = None, *args: Any, **options: Any) -> Any:
        """Takes a message, or one that is `Written` already."""
        serializer = request_serializer and _unless_written(request_serializer)
        start = self._channel.unary_unary(method, serializer, *args, **options)
        return _Method(start, self._metadata, deadline=CALL_DEADLINE_S)

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        return _Method(self._channel.unary_stream(*args, **options), self._metadata, deadline=None)

    def stream_unary(self, method: str, request_serializer: Any = None, *args: Any, **options: Any) -> Any:
        """Takes messages, and such as are `Written` already."""
        serializer = request_serializer and _unless_written(request_serializer)
        start = self._channel.stream_unary(method, serializer, *args, **options)
        return _Method(start, self._metadata, deadline=UPLOAD_DEADLINE_S)

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


def _unless_written(serializer: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    return lambda message: message.octets if isinstance(message, Written) else serializer(message)


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
    """A call that is under way: awaited, iterated, read or written like gRPC's own, but it raises our errors.

    It is cancelled when whoever waits for it is, and when nobody holds it any more (a
    loop over a stream was left). gRPC promises the same, but forgets a cancellation that
    comes before the first byte was sent, and leaves a stream to the garbage collector.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._outcome = _Outcome(call)

    def __del__(self) -> None:
        self._call.cancel()  # nothing where the call is over

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)  # cancel, done, code, initial_metadata and the like raise nothing of ours

    def __await__(self) -> Generator[Any, None, Any]:
        return self.awaited(self._call).__await__()

    def __aiter__(self) -> AsyncIterator[Any]:
        return _Messages(self, aiter(self._call))

    async def read(self) -> Any:
        """The next message, or grpc.aio.EOF."""
        return await self.awaited(self._call.read())

    async def write(self, request: Any) -> None:
        """Sends a message; raises what the call failed with where it is over."""
        try:
            await self.awaited(self._call.write(request))
        except asyncio.InvalidStateError:
            if self._outcome.error is None:
                raise
            raise from_rpc_error(self._outcome.error) from None

    async def done_writing(self) -> None:
        """Says that no more messages come; nothing where the call is over."""
        await self.awaited(self._call.done_writing())

    async def wait_for_connection(self) -> None:
        """Returns when the call has reached a server."""
        await self.awaited(self._call.wait_for_connection())

    async def awaited(self, step: Awaitable[Any]) -> Any:
        """The result of one step of this call."""
        try:
            return await step
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(await self._outcome.instead_of(error, call=self._call)) from error
        except asyncio.CancelledError:
            self._call.cancel()
            if not _is_being_cancelled():
                # gRPC cancels a call of its own accord where its deadline comes just as it sends. Passed on, that would
                # end the task of whoever waits without a word.
                raise StoreUnavailable from None
            raise


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or bool(task.cancelling())


class _Outcome:
    """The status with which the server ended a call.

    When a server answers a stream that is still being sent, sending fails, and gRPC may
    set that ("Internal error from Core") as the status of the call: over the server's
    own, which is the one that says why, or shortly before it. The server's is kept here.
    """

    def __init__(self, call: Any) -> None:
        self.error: grpc.aio.AioRpcError | None = None
        self._known = False
        call.add_done_callback(self.note)  # holds no reference to the call: it must go when its holder does

    async def instead_of(self, error: grpc.aio.AioRpcError, *, call: Any) -> grpc.aio.AioRpcError:
        """The server's status where `error` only says that sending failed.

        It comes after the messages before it: a caller who writes and does not read gets `error`.
        """
        end = time.monotonic() + STATUS_DEADLINE_S
        while _only_says_that_sending_failed(error) and not self._known and time.monotonic() < end:
            await asyncio.sleep(STATUS_PERIOD_S)  # gRPC calls back for the first status only
            self.note(call)
        return self.error or error

    def note(self, call: Any) -> None:
        """Keeps the status of a call that is over."""
        code = _result_at_once(call.code())
        error = grpc.aio.AioRpcError(
            code,
            _result_at_once(call.initial_metadata()),
            _result_at_once(call.trailing_metadata()),
            details=_result_at_once(call.details()),
        )
        if not self._known and not _only_says_that_sending_failed(error):
            self._known = True
            self.error = None if code is grpc.StatusCode.OK else error


def _only_says_that_sending_failed(error: grpc.aio.AioRpcError) -> bool:
    return error.code() is grpc.StatusCode.INTERNAL and error.details() == "Internal error from Core"


def _result_at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing left to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the parts of a status are known once it is set")


class _Messages:
    """The messages of a stream, in order."""

    def __init__(self, call: TranslatedCall, messages: AsyncIterator[Any]) -> None:
        self._call = call
        self._messages = messages

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await self._call.awaited(anext(self._messages))
