"""Carries the calls of decentralized sessions out: one stream to the signaling service, events back.

The only file that knows both `gateway.sessions.decentralized` and the signaling
service's messages. A stream that breaks is only reported: taking it up again is
the session's business.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import grpc
import structlog
from disco.signaling.v1.signaling_service_pb2 import ConnectRequest, ConnectResponse
from google.protobuf.duration_pb2 import Duration

from gateway.introductions import Introductions
from gateway.metrics import GatewayMetrics
from gateway.sessions.decentralized import (
    AskForPeers,
    Call,
    CountDropped,
    EndSession,
    Event,
    PeersListed,
    SendSignal,
    SessionRefused,
    SessionStarted,
    SignalArrived,
    StartSession,
    StreamBroken,
)
from learning.refusals import BY_REASON, DiscoError, Fault, Refusal, SlowConsumer, StoreUnavailable

if TYPE_CHECKING:
    from disco.signaling.v1.signaling_service_pb2_grpc import SignalingServiceAsyncStub

MAX_REQUESTS = 512
GOODBYE_S = 2.0
ATTENDS_WITHIN_S = 0.5
"""A peer that has not answered a ping by then is taken for ready all the same. Clients wait a second longer than they
are counted as ready."""

Stream = grpc.aio.StreamStreamCall[ConnectRequest, ConnectResponse]

_log = structlog.stdlib.get_logger("gateway")


class SignalingLink:
    """The calls of one session."""

    def __init__(
        self,
        task_id: str,
        *,
        peer_protocol: str,
        signaling: SignalingServiceAsyncStub,
        introductions: Introductions,
        answered: Callable[[], Awaitable[None]],
        metrics: GatewayMetrics,
        deliver: Callable[[Event], None],
    ) -> None:
        self._task_id = task_id
        self._peer_protocol = peer_protocol
        self._signaling = signaling
        self._introductions = introductions
        self._answered = answered
        self._metrics = metrics
        self._deliver = deliver
        self._peer_id = ""
        self._requests: _Requests | None = None
        self._stream: asyncio.Task[None] | None = None
        self._said_goodbye = False

    async def run(self, call: Call) -> None:
        """Carries one call out. Only StartSession takes longer than a moment: as long as the stream lives."""
        match call:
            case StartSession():
                self._stream = asyncio.current_task()
                await self._connect(call)
            case AskForPeers(patience_s):
                await self._mark_ready(patience_s)
            case SendSignal(peer_id, body):
                signal = ConnectRequest.SendSignal(peer_id=peer_id, body=body)
                if not self._send(ConnectRequest(send_signal=signal)):
                    self._metrics.signals_dropped(SlowConsumer.reason, 1)
            case EndSession(give_up_seat):
                await self._end(give_up_seat=give_up_seat)
            case CountDropped(reason, signals):
                self._metrics.signals_dropped(reason, signals)

    async def _mark_ready(self, patience_s: float | None) -> None:
        """Marks the peer ready once its client attends to what it is sent.

        A client that says it is ready may be far from reading again, where its machine is
        busy. The others would have their lists by then, and their weights would come to it
        before its own.
        """
        stream = self._requests
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ATTENDS_WITHIN_S):
                await self._answered()
        if self._requests is stream:  # the session says it again on a new stream
            self._send(ConnectRequest(mark_ready=ConnectRequest.MarkReady(patience=_duration(patience_s))))

    def _send(self, request: ConnectRequest) -> bool:
        """False where the stream broke in this very moment, or the service does not keep up."""
        return self._requests is not None and self._requests.put(request)

    async def _end(self, *, give_up_seat: bool) -> None:
        if self._stream is None or self._stream.done():
            return
        if give_up_seat and self._requests is not None:
            self._said_goodbye = self._send(ConnectRequest(end_session=ConnectRequest.EndSession()))
            await asyncio.wait({self._stream}, timeout=GOODBYE_S)
        self._stream.cancel()

    async def _connect(self, start: StartSession) -> None:
        requests = _Requests(self._first_request(start))
        try:
            await self._exchange(requests)
            if not self._said_goodbye:
                self._broke(StoreUnavailable(), requests)
        except* SlowConsumer as slow:
            self._broke(_first(slow), requests)  # we did not keep up with the service; the session itself is fine
        except* Refusal as refused:
            self._deliver(SessionRefused(_first(refused)))
        except* Fault as faults:
            self._broke(_first(faults), requests)

    def _first_request(self, start: StartSession) -> ConnectRequest:
        return ConnectRequest(
            start_session=ConnectRequest.StartSession(
                task_id=self._task_id,
                peer_id=start.peer_id,
                session_token=start.session_token,
                next_round=start.next_round,
                client_id=start.client_id,
                peer_protocol=self._peer_protocol,
            )
        )

    async def _exchange(self, requests: _Requests) -> None:
        """One stream from its first message to its end."""
        call = self._signaling.Connect()
        self._requests = requests
        try:
            async with asyncio.TaskGroup() as pumps:
                writing = pumps.create_task(requests.write_to(call))
                async for response in call:
                    self._receive(response)
                writing.cancel()
        finally:
            self._requests = None
            self._introductions.leave(self._task_id, self._peer_id, self._deliver)
            call.cancel()

    def _broke(self, error: DiscoError, requests: _Requests) -> None:
        self._metrics.call_failed("Connect", error.reason)
        _log.debug("signaling.broke", task_id=self._task_id, reason=error.reason)
        self._deliver(StreamBroken(requests.unsent_signals()))

    def _receive(self, response: ConnectResponse) -> None:
        match response.WhichOneof("message"):
            case "session_started":
                started = response.session_started
                self._peer_id = started.peer_id
                self._introductions.enter(self._task_id, started.peer_id, self._deliver)
                self._deliver(SessionStarted(started.peer_id, started.session_token))
            case "peers_for_round":
                peers = response.peers_for_round
                listed = PeersListed(peers.round, tuple(peers.peer_ids))
                self._introductions.bring(self._task_id, self._peer_id, listed)
            case "signal":
                self._deliver(SignalArrived(response.signal.peer_id, response.signal.body))
            case "signal_refused":
                self._metrics.signals_dropped(_known(response.signal_refused.reason), 1)


class _Requests:
    """What is still to be written to one stream. A request stays here until it was written."""

    def __init__(self, first: ConnectRequest) -> None:
        self._waiting = deque([first])
        self._filled = asyncio.Event()
        self._filled.set()

    def put(self, request: ConnectRequest) -> bool:
        """False where the service does not keep up."""
        if len(self._waiting) >= MAX_REQUESTS:
            return False
        self._waiting.append(request)
        self._filled.set()
        return True

    async def write_to(self, call: Stream) -> None:
        while True:
            await self._filled.wait()
            await call.write(self._waiting[0])
            self._waiting.popleft()
            if not self._waiting:
                self._filled.clear()

    def unsent_signals(self) -> tuple[SendSignal, ...]:
        return tuple(
            SendSignal(request.send_signal.peer_id, request.send_signal.body)
            for request in self._waiting
            if request.WhichOneof("message") == "send_signal"
        )


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration


def _first(group: BaseExceptionGroup[DiscoError]) -> DiscoError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, DiscoError)
    return error


def _known(reason: str) -> str:
    """A reason as a label of metrics: a newer service may have names we do not know, but not any number of them."""
    return reason if reason in BY_REASON else "other"
