"""disco.signaling.v1.SignalingService: one stream for each peer. Proto in, proto out; no rules.

first       start_session → session_started
then        mark_ready, send_signal, in their order, each dealt with before the next is read
the end     end_session gives the seat up; any other end keeps it for the lease's time
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
from disco.signaling.v1.signaling_service_pb2 import (
    ConnectRequest,
    ConnectResponse,
    GetPeerRoundRequest,
    GetPeerRoundResponse,
)
from disco.signaling.v1.signaling_service_pb2_grpc import SignalingServiceServicer
from google.protobuf.duration_pb2 import Duration

from learning.ids import PeerId, TaskId, peer_id, task_id, valid_id
from learning.refusals import InvalidId, MalformedMessage
from roundstore.peer_store import Signal
from services.signaling.round_messages import peer_round_message
from services.signaling.streams import Message, OpenStream, PeerList, SignalRefused
from services.signaling.switchboard import Claim, Session, Switchboard
from services.signaling.task_book import TaskBook

FIRST_MESSAGE_S = 10.0

Context = grpc.aio.ServicerContext[ConnectRequest, ConnectResponse]


class SignalingServicer(SignalingServiceServicer):
    """Answers with the switchboard's words."""

    def __init__(self, switchboard: Switchboard, tasks: TaskBook) -> None:
        self._switchboard = switchboard
        self._tasks = tasks

    async def Connect(  # type: ignore[override]  # noqa: N802 (gRPC's name)
        self, requests: AsyncIterator[ConnectRequest], context: Context
    ) -> None:
        # A coroutine rather than a generator: when its call is cancelled, `finally` runs at once.
        start = await _start_session(requests)
        task = await self._tasks.find(task_id(start.task_id))
        session = await self._switchboard.connect(task, _to_claim(start))
        try:
            await context.write(_started(session))
            await self._converse(task.task_id, session.stream, requests, context)
        finally:
            await self._switchboard.disconnect(session.stream)

    async def GetPeerRound(  # noqa: N802
        self, request: GetPeerRoundRequest, context: object
    ) -> GetPeerRoundResponse:
        task = await self._tasks.find(task_id(request.task_id))
        return GetPeerRoundResponse(round=peer_round_message(task, await self._switchboard.read_round(task.task_id)))

    async def _converse(
        self, task: TaskId, stream: OpenStream, requests: AsyncIterator[ConnectRequest], context: Context
    ) -> None:
        """Returns when the peer has ended the stream; raises what else ended it."""
        pumps = {
            asyncio.create_task(self._receive(task, stream, requests)),
            asyncio.create_task(_send(stream, context)),
        }
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in done:
                pump.result()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _receive(self, task: TaskId, stream: OpenStream, requests: AsyncIterator[ConnectRequest]) -> None:
        async for request in requests:
            match request.WhichOneof("message"):
                case "mark_ready":
                    await self._tasks.find(task)  # raises TaskNotFound where it was deleted meanwhile
                    await self._switchboard.mark_ready(stream, patience_s=_patience(request.mark_ready))
                case "send_signal":
                    await self._send_signal(stream, request.send_signal)
                case "end_session":
                    await self._switchboard.leave(stream)
                    return
                case "start_session":
                    raise MalformedMessage(problem="the session is open already")
                case _:
                    raise MalformedMessage(problem="the message is empty")

    async def _send_signal(self, stream: OpenStream, request: ConnectRequest.SendSignal) -> None:
        try:
            to = peer_id(request.peer_id)
        except InvalidId as refused:
            stream.refuse(PeerId(""), refused)  # what was no id is not said again
        else:
            await self._switchboard.send_signal(stream, to, body=request.body)


async def _start_session(requests: AsyncIterator[ConnectRequest]) -> ConnectRequest.StartSession:
    try:
        async with asyncio.timeout(FIRST_MESSAGE_S):
            first = await anext(requests)
    except (StopAsyncIteration, TimeoutError):
        raise MalformedMessage(problem=f"no start_session came within {FIRST_MESSAGE_S:g} seconds") from None
    if first.WhichOneof("message") != "start_session":
        raise MalformedMessage(problem="the first message must be start_session")
    return first.start_session


def _to_claim(start: ConnectRequest.StartSession) -> Claim:
    """Raises InvalidId."""
    return Claim(
        peer_id=peer_id(start.peer_id) if start.peer_id else "",
        session_token=start.session_token,
        client_id=valid_id(start.client_id, "client") if start.client_id else "",
        next_round=start.next_round,
        protocol=valid_id(start.peer_protocol, "protocol") if start.peer_protocol else "",
    )


def _patience(request: ConnectRequest.MarkReady) -> float | None:
    """Seconds; None: without end. Raises MalformedMessage."""
    if not request.HasField("patience"):
        return None
    patience: Duration = request.patience
    seconds = patience.seconds + patience.nanos / 1e9
    if seconds <= 0:
        raise MalformedMessage(problem="patience must be above 0")
    return seconds


async def _send(stream: OpenStream, context: Context) -> None:
    while True:
        await context.write(_to_response(await stream.next_message()))


def _started(session: Session) -> ConnectResponse:
    return ConnectResponse(
        session_started=ConnectResponse.SessionStarted(
            peer_id=session.stream.seat.peer_id,
            session_token=session.session_token,
            resumed=session.resumed,
            peers_present=session.peers_present,
            min_peers=session.min_peers,
        )
    )


def _to_response(message: Message) -> ConnectResponse:
    match message:
        case PeerList(number, peer_ids):
            return ConnectResponse(
                peers_for_round=ConnectResponse.PeersForRound(round=number, peer_ids=peer_ids),
            )
        case Signal(sender, _, body):
            return ConnectResponse(signal=ConnectResponse.Signal(peer_id=sender, body=body))
        case SignalRefused(to, error):
            return ConnectResponse(
                signal_refused=ConnectResponse.SignalRefused(peer_id=to, reason=error.reason, sentence=str(error))
            )
