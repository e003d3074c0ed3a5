"""One open socket: two pumps around a session.

    socket → frame → dialect → session → calls → services
    services → events → session → dialect → outbox → socket

Every step is: something goes into the session, then its messages and calls are
drained. What a session cannot use costs that message, is counted by its reason
and logged at debug; what ends the socket ends it once, with a code that says
whether to come back. When the socket is gone, the session's last calls (the
contribution that was received whole, leaving) are still carried out.

Knows ASGI's WebSocket events; nothing of tasks, paths and HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog
from starlette.types import Receive, Send

from gateway.close_codes import close_frame
from gateway.decoding import Decoding
from gateway.dialects.messages import ClientMessage, ServerMessage
from gateway.metrics import GatewayMetrics
from gateway.outbox import Outbox
from learning.refusals import DiscoError, InternalError, MalformedMessage
from rpc.logs import request_id

Call = TypeVar("Call")
Event = TypeVar("Event", contravariant=True)

CLOSE_WITHIN_S = 5.0

_log = structlog.stdlib.get_logger("gateway")


class Session(Protocol[Call, Event]):
    """What both kinds of sessions are to a connection."""

    def receive(self, message: ClientMessage, now: float) -> None: ...
    def deliver(self, event: Event, now: float) -> None: ...
    def tick(self, now: float) -> None: ...
    def lost(self, now: float, *, orderly: bool) -> None: ...
    def take_calls(self) -> list[Call]: ...
    def take_messages(self) -> list[ServerMessage]: ...
    def wake_at(self) -> float | None: ...


@dataclass(frozen=True)
class Codec:
    """How frames and messages become each other on this socket. The encoder may share its bytes with other sockets."""

    decode: Callable[[bytes], ClientMessage]
    encode: Callable[[ServerMessage], bytes]


@dataclass(frozen=True)
class Ending:
    """How a socket ended. `reason` is "gone" where the client closed it or vanished."""

    reason: str
    orderly: bool


class _SocketEnded(Exception):
    """Raised by whoever notices first that the socket is over; takes the other pumps along."""

    def __init__(self, ending: Ending, error: DiscoError | None = None) -> None:
        self.ending = ending
        self.error = error
        super().__init__(ending.reason)


class Connection(Generic[Call, Event]):
    """Run it once, with `run`."""

    def __init__(
        self,
        session: Session[Call, Event],
        codec: Codec,
        outbox: Outbox,
        *,
        decoding: Decoding,
        metrics: GatewayMetrics,
    ) -> None:
        self._session = session
        self._codec = codec
        self._outbox = outbox
        self._decoding = decoding
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._group = asyncio.TaskGroup()
        self._run_call: Callable[[Call], Awaitable[None]] | None = None
        self._fatal: asyncio.Future[DiscoError] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self.messages_received = 0
        self.messages_refused = 0

    async def run(self, receive: Receive, send: Send, *, run_call: Callable[[Call], Awaitable[None]]) -> Ending:
        """Serves an accepted socket to its end, and the session to the end of its last call."""
        self._run_call = run_call
        async with self._group:
            ending = await self._pump(receive, send)
            self._session.lost(self._loop.time(), orderly=ending.orderly)
            self._proceed()
        return ending

    def deliver(self, event: Event) -> None:
        """Reports a fact to the session. Never waits and never raises: what it breaks is this socket."""
        try:
            self._session.deliver(event, self._loop.time())
        except DiscoError as error:
            self.end(error)
        self._proceed()

    def end(self, error: DiscoError) -> None:
        """Ends the socket because of `error`; the first reason counts."""
        if not self._fatal.done():
            self._fatal.set_result(error)

    # The pumps.

    async def _pump(self, receive: Receive, send: Send) -> Ending:
        ended: _SocketEnded | None = None
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._read(receive))
                pumps.create_task(self._write(send))
                pumps.create_task(self._wait_for_fatal())
        except* _SocketEnded as endings:
            ended = _first(endings)
        # The pump: whatever a session or a codec did not foresee ends this socket, and no other.
        except* Exception as bugs:  # noqa: BLE001
            _log.exception("socket.failed", exc_info=bugs)
            ended = _ending_for(InternalError(request_id=request_id()))
        assert ended is not None, "a pump only stops by raising"
        if ended.error is not None:
            await self._close(send, ended.error)
        return ended.ending

    async def _read(self, receive: Receive) -> None:
        while True:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                # A connection that breaks without a closing handshake is reported without a reason.
                raise _SocketEnded(Ending("gone", orderly="reason" in event))
            self.messages_received += 1
            try:
                self._session.receive(await self._decoded(event.get("bytes")), self._loop.time())
            except DiscoError as refusal:
                self.messages_refused += 1
                self._metrics.message_refused(refusal.reason)
                _log.debug("message.refused", reason=refusal.reason, sentence=str(refusal))
            del event  # a frame may be large, and the next one may be minutes away
            self._proceed()

    async def _decoded(self, frame: bytes | None) -> ClientMessage:
        if frame is None:
            raise MalformedMessage(problem="text frames mean nothing here")
        return await self._decoding.decoded(frame, self._codec.decode)

    async def _write(self, send: Send) -> None:
        while True:
            frame = await self._outbox.get()
            try:
                await send({"type": "websocket.send", "bytes": frame})
            except (OSError, RuntimeError):
                # How uvicorn says that the client went away, or that it closed the socket itself (1009), meanwhile.
                raise _SocketEnded(Ending("gone", orderly=False)) from None

    async def _wait_for_fatal(self) -> None:
        raise _ending_for(await self._fatal)

    async def _close(self, send: Send, error: DiscoError) -> None:
        self._metrics.socket_ended(error.reason)
        code, reason = close_frame(error)
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await send({"type": "websocket.close", "code": code, "reason": reason})
        except (OSError, RuntimeError):
            return  # the client was faster, or reads nothing at all: then TCP gives it up

    # What follows every step.

    def _proceed(self) -> None:
        try:
            for message in self._session.take_messages():
                self._outbox.put(self._codec.encode(message))
        except DiscoError as error:
            self.end(error)
        for call in self._session.take_calls():
            self._group.create_task(self._carry_out(call))
        self._set_timer()

    async def _carry_out(self, call: Call) -> None:
        assert self._run_call is not None
        try:
            await self._run_call(call)
        except DiscoError as error:
            self.end(error)
        # The pump: a bug in carrying out one call ends this socket, and no other.
        except Exception:  # noqa: BLE001
            _log.exception("call.failed", call=type(call).__name__)
            self.end(InternalError(request_id=request_id()))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (moment := self._session.wake_at()) is not None:
            self._timer = self._loop.call_at(moment, self._wake)

    def _wake(self) -> None:
        self._session.tick(self._loop.time())
        self._proceed()


def _first(endings: BaseExceptionGroup[_SocketEnded]) -> _SocketEnded:
    """Of several that noticed at the same time, the one that says why."""
    flat = [ending for ending in endings.exceptions if isinstance(ending, _SocketEnded)]
    return next((ending for ending in flat if ending.error is None), flat[0])


def _ending_for(error: DiscoError) -> _SocketEnded:
    return _SocketEnded(Ending(error.reason, orderly=False), error)
