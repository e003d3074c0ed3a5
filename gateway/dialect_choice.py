"""Chooses the dialect of every request and every socket: asks for what the rules need, in their order.

The rules are `gateway.dialects.negotiation`. A task is looked up only where nothing in the request decides; what did
decide is remembered for the client's address. Where only an address decided, that is logged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import structlog
from starlette.datastructures import Headers
from starlette.types import Scope

from gateway.client_address import client_address, is_relayed
from gateway.dialect_memory import DialectMemory
from gateway.dialects.negotiation import GUESSED, Asked, Known, Negotiated, negotiate, task_in
from gateway.settings import GatewaySettings
from gateway.task_directory import TaskDirectory
from learning.ids import task_id
from learning.refusals import DiscoError
from learning.task import PINNED_DIALECTS

_ROUTES = ("/tasks", "/feai", "/deai", "/federated", "/decentralized")
"""What clients ask for. What people and watchdogs ask for beside it says nothing about clients."""

_log = structlog.stdlib.get_logger("gateway")


class DialectChoice:
    """One per gateway. `clock` tells seconds."""

    def __init__(self, settings: GatewaySettings, *, directory: TaskDirectory, clock: Callable[[], float]) -> None:
        self._known = Known(origins=settings.dialects_by_origin, default=settings.default_dialect)
        self._trusts_forwarded_for = settings.forwarded_for == "trusted"
        self._memory = DialectMemory(kept_s=settings.dialect_memory_s)
        self._directory = directory
        self._clock = clock

    async def of(self, scope: Scope, headers: Headers, *, path: str) -> Negotiated:
        """The dialect of an HTTP request or an upgrade; `path` is that of the scope, in the case that routes have."""
        is_socket = scope["type"] == "websocket"
        asked = Asked(
            path,
            headers,
            scope["query_string"].decode("latin-1"),
            tuple(scope["subprotocols"]) if is_socket else (),
            is_socket,
        )
        found = negotiate(asked, self._known)
        if not found.path.lower().startswith(_ROUTES):
            return found
        address = self._address(scope, headers)
        if found.rule in GUESSED:
            pin = await self._pin(replace(asked, path=found.path))
            remembered = self._memory.recall(address, now=self._clock())
            found = negotiate(asked, replace(self._known, pin=pin, remembered=remembered))
        if found.rule == "memory":
            _log.info("dialect.remembered", dialect=found.dialect, path=found.path)
        elif self._shows_the_client(found, is_socket=is_socket):
            self._memory.remember(address, found.dialect, now=self._clock())
        return found

    def _shows_the_client(self, found: Negotiated, *, is_socket: bool) -> bool:
        """Whether the outcome says what clients of that address speak, beyond this request.

        A pin tells of the task. Who opens a socket there has read the model in that generation's words before, and so
        is of it; who only asks for the model may be anybody.
        """
        if found.dialect not in PINNED_DIALECTS:
            return False  # the documents of no generation
        return found.rule not in GUESSED or (found.rule == "pin" and is_socket)

    async def _pin(self, asked: Asked) -> str:
        named = task_in(asked)
        try:
            return (await self._directory.entry(task_id(named))).task.pinned_dialect if named else ""
        except DiscoError:
            return ""  # the route says what is wrong with the task, or serves what it has of it

    def _address(self, scope: Scope, headers: Headers) -> str:
        """Nobody's where a proxy asks for many, and is not trusted to say for whom."""
        if not self._trusts_forwarded_for and is_relayed(headers):
            return ""
        peer = scope["client"][0] if scope.get("client") else ""
        return client_address(peer, headers, trusts_forwarded_for=self._trusts_forwarded_for)
