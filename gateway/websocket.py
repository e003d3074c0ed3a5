"""Sockets, from the upgrade to the last call: which task, which dialect, which session.

    /feai/{task}/{client}  /feai/{task}  /deai/{task}  /deai/{task}/{client}  /federated/{task}  /decentralized/{task}
    with and without prefix (`/v2.1`) and trailing slash

What cannot be served is refused at the upgrade, by an HTTP answer with a problem
document: every generation then fails at once instead of waiting for its own limit.
The only file that decides about sockets; `gateway.connection` moves the bytes.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import structlog
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.connection import Codec, Connection, Ending
from gateway.decoding import Decoding
from gateway.dialect_choice import DialectChoice
from gateway.dialects.dialect import Dialect
from gateway.dialects.messages import ClientMessage, Contribute
from gateway.dialects.negotiation import Negotiated, SocketRoute, confirmed_subprotocol, socket_route
from gateway.dialects.registry import DIALECTS
from gateway.federated_calls import FederatedCalls
from gateway.http_edge import request_id_of
from gateway.hub import Hub
from gateway.introductions import Introductions
from gateway.metrics import GatewayMetrics
from gateway.outbox import Outbox
from gateway.problems import problem, problem_for
from gateway.refusal_notes import RefusalNotes
from gateway.service_clients import ServiceClients
from gateway.sessions import decentralized, federated_terms
from gateway.sessions.federated import FederatedSession
from gateway.settings import GatewaySettings
from gateway.signaling_link import SignalingLink
from gateway.submitting import Submitting
from gateway.task_directory import TaskDirectory, TaskEntry
from gateway.versions import Versions
from gateway.web_server import ANSWERED
from learning.ids import participant_id, task_id
from learning.refusals import DiscoError, InvalidId, ShuttingDown, WrongScheme
from learning.task import Scheme

MAX_FRAMES_WAITING = 256

_log = structlog.stdlib.get_logger("gateway")


@dataclass(frozen=True)
class _Upgrade:
    """An upgrade that can be granted."""

    route: SocketRoute
    entry: TaskEntry
    dialect: Dialect
    negotiated: Negotiated
    subprotocol: str | None
    answered: Callable[[], Awaitable[None]]
    """Returns when the client has answered a ping."""


class _Refused(Exception):
    """The upgrade is answered with this instead."""

    def __init__(self, reason: str, answer: Response) -> None:
        self.reason = reason
        self.answer = answer
        super().__init__(reason)


async def _at_once() -> None:
    """For servers that cannot ping."""


class WebSocketEndpoint:
    """An ASGI application for the scope `websocket`. One per gateway."""

    def __init__(
        self,
        settings: GatewaySettings,
        clients: ServiceClients,
        *,
        choice: DialectChoice,
        directory: TaskDirectory,
        hub: Hub,
        submitting: Submitting,
        versions: Versions,
        metrics: GatewayMetrics,
    ) -> None:
        self._settings = settings
        self._aggregator = clients.aggregator()
        self._signaling = clients.signaling()
        self._choice = choice
        self._directory = directory
        self._hub = hub
        self._submitting = submitting
        self._versions = versions
        self._metrics = metrics
        self._decoding = Decoding()
        self._introductions = Introductions()
        self._notes = RefusalNotes(self._aggregator, metrics)
        self._open: dict[asyncio.Task[object], Callable[[DiscoError], None]] = {}
        self._places_taken = 0
        self._draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        first = await receive()
        assert first["type"] == "websocket.connect", "ASGI begins every socket like this"
        headers = Headers(scope=scope)
        with structlog.contextvars.bound_contextvars(request_id=request_id_of(headers)):
            try:
                with self._place():
                    upgrade = await self._judge(scope, headers)
                    await send({"type": "websocket.accept", "subprotocol": upgrade.subprotocol})
                    await self._serve(upgrade, receive, send)
            except _Refused as refused:
                self._metrics.upgrade_refused(refused.reason)
                _log.info("socket.refused", path=scope["path"], reason=refused.reason)
                await refused.answer(scope, receive, send)

    async def drain(self) -> None:
        """Closes every socket with a code that says to come back, and waits for their last calls."""
        self._draining = True
        for end in self._open.values():
            end(ShuttingDown())
        if self._open:
            await asyncio.wait(self._open)
        await self._notes.drain()

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Takes one of the places for sockets while the block runs: before anything is asked, which would cost, too."""
        if self._places_taken >= self._settings.max_sockets:
            detail = f"This gateway has {self._settings.max_sockets} sockets open, as many as it may. Try again later."
            raise _Refused("TOO_MANY_SOCKETS", problem(503, "TOO_MANY_SOCKETS", detail))
        self._places_taken += 1
        try:
            yield
        finally:
            self._places_taken -= 1

    async def _judge(self, scope: Scope, headers: Headers) -> _Upgrade:
        try:
            if self._draining:
                raise ShuttingDown
            negotiated = await self._choice.of(scope, headers, path=scope["path"])
            route = socket_route(negotiated.path)
            if route is None:
                detail = (
                    "There is no socket at this path. They are at /feai/{task}, /feai/{task}/{client}, /deai/{task}, "
                    "/federated/{task} and /decentralized/{task}."
                )
                raise _Refused("NOT_FOUND", problem(404, "NOT_FOUND", detail))
            task_id(route.task_id)
            if route.client_id:
                participant_id(route.client_id)
            entry = await self._directory.entry(route.task_id)
            if entry.task.scheme is not route.scheme:
                raise WrongScheme(task_id=route.task_id, scheme=entry.task.scheme.value)
        except InvalidId as error:
            answer = problem(404, error.reason, str(error), variables=error.variables)
            raise _Refused(error.reason, answer) from error
        except DiscoError as error:
            raise _Refused(error.reason, problem_for(error)) from error
        subprotocol = confirmed_subprotocol(tuple(scope["subprotocols"]), negotiated.dialect)
        answered = scope.get("extensions", {}).get(ANSWERED, _at_once)
        return _Upgrade(route, entry, DIALECTS[negotiated.dialect], negotiated, subprotocol, answered)

    async def _serve(self, upgrade: _Upgrade, receive: Receive, send: Send) -> None:
        scheme, dialect = upgrade.route.scheme.value, upgrade.dialect.name
        log = _log.bind(task_id=upgrade.route.task_id, dialect=dialect, rule=upgrade.negotiated.rule)
        log.info("socket.opened")
        self._metrics.socket_opened(scheme=scheme, dialect=dialect)
        serve = self._serve_federated if upgrade.route.scheme is Scheme.FEDERATED else self._serve_decentralized
        try:
            connection, ending = await serve(upgrade, receive, send)
            log.info(
                "socket.closed",
                reason=ending.reason,
                messages=connection.messages_received,
                refused=connection.messages_refused,
            )
        finally:
            self._metrics.socket_closed(scheme=scheme, dialect=dialect)

    async def _serve_federated(
        self, upgrade: _Upgrade, receive: Receive, send: Send
    ) -> tuple[Connection[federated_terms.Call, federated_terms.Event], Ending]:
        task, dialect = upgrade.route.task_id, upgrade.dialect
        participant = upgrade.route.client_id or str(uuid.uuid4())
        codec = Codec(
            decode=partial(self._decode_federated, dialect),
            encode=partial(self._versions.frame, task, dialect),
        )
        session = FederatedSession(
            task,
            participant,
            shapes=upgrade.entry.shapes,
            manners=dialect.manners,
            poll_hold_s=self._settings.poll_hold_s,
        )
        connection: Connection[federated_terms.Call, federated_terms.Event] = Connection(
            session, codec, self._new_outbox(), decoding=self._decoding, metrics=self._metrics
        )
        calls = FederatedCalls(
            task,
            participant,
            aggregator=self._aggregator,
            hub=self._hub,
            submitting=self._submitting,
            versions=self._versions,
            dialect=dialect,
            notes=self._notes,
            metrics=self._metrics,
            deliver=connection.deliver,
            end=connection.end,
        )
        with self._registered(connection.end):
            return connection, await connection.run(receive, send, run_call=calls.run)

    def _decode_federated(self, dialect: Dialect, frame: bytes) -> ClientMessage:
        message = dialect.decode_federated(frame, self._settings.max_message_bytes, self._submitting.room)
        if isinstance(message, Contribute):
            self._submitting.seal(message.weights)
        return message

    async def _serve_decentralized(
        self, upgrade: _Upgrade, receive: Receive, send: Send
    ) -> tuple[Connection[decentralized.Call, decentralized.Event], Ending]:
        dialect = upgrade.dialect
        codec = Codec(decode=dialect.decode_decentralized, encode=dialect.encode)
        session = decentralized.DecentralizedSession(
            client_id=upgrade.route.client_id, patience_s=dialect.manners.peer_patience_s
        )
        connection: Connection[decentralized.Call, decentralized.Event] = Connection(
            session, codec, self._new_outbox(), decoding=self._decoding, metrics=self._metrics
        )
        link = SignalingLink(
            upgrade.route.task_id,
            peer_protocol=dialect.manners.peer_protocol,
            signaling=self._signaling,
            introductions=self._introductions,
            answered=upgrade.answered,
            metrics=self._metrics,
            deliver=connection.deliver,
        )
        with self._registered(connection.end):
            return connection, await connection.run(receive, send, run_call=link.run)

    def _new_outbox(self) -> Outbox:
        return Outbox(max_frames=MAX_FRAMES_WAITING, max_bytes=self._settings.max_message_bytes)

    @contextmanager
    def _registered(self, end: Callable[[DiscoError], None]) -> Iterator[None]:
        """Lets `drain` reach the socket while the block runs."""
        serving = asyncio.current_task()
        assert serving is not None, "ASGI servers run every socket in a task"
        self._open[serving] = end
        try:
            yield
        finally:
            del self._open[serving]
