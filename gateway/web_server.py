"""Uvicorn as the gateway needs it: the listening socket, the limits, how sockets are written and closed, draining.

Liveness. Real clients answer no ping while they train, which takes minutes, so a
ping without an answer proves nothing: pings are sent every PING_S seconds, to keep
proxies from ending sockets that are merely quiet, and their answers are not
awaited. What proves that a connection is dead is TCP, whose acknowledgements do not
need the client's attention: a ping that is not acknowledged for UNACKNOWLEDGED_S
ends the connection (TCP_USER_TIMEOUT; keepalive where a system lacks it). Both are
set on the listening socket; accepted sockets inherit them.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import struct
import sys
from asyncio import BaseTransport
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

from gateway.frame_stream import CollectingReader
from gateway.settings import GatewaySettings
from rpc.server import CannotListen

PING_S = 20.0
KEEPALIVE_IDLE_S = 30
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_PROBES = 6
UNACKNOWLEDGED_S = 120
"""Also the time for which a client may leave a full buffer unread, so not too short."""
DRAIN_SOCKETS_S = 15.0
DRAIN_HTTP_S = 10
LINGER_S = 10.0
ANSWERED = "disco.answered"
IDLE_HTTP_S = 65
"""Longer than the common 60 seconds of proxies, so that it is they who close connections that are idle."""
SHARED_FROM_BYTES = 64 << 10
READ_ON_BYTES = 16 << 20
"""So much is read from one socket before it is the others' turn."""
BACKLOG = 2048
OTHER_FILES = 512
"""Files that the process needs beside its sockets: connections over HTTP, and those to the services."""

_log = structlog.stdlib.get_logger("gateway")


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises CannotListen, which says why in one sentence."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _notice_dead_connections(listening)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise CannotListen(address, error.strerror or str(error)) from None
    listening.setblocking(False)
    return listening


def allow_files(sockets: int) -> None:
    """Lets this process open as many files as its sockets and the rest need, as far as the system lets it."""
    if sys.platform == "win32":
        return  # it knows no such limit
    import resource

    wanted = sockets + OTHER_FILES
    allowed, at_most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY or allowed >= wanted:
        return
    raised = wanted if at_most == resource.RLIM_INFINITY else min(wanted, at_most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, at_most))
    if raised < wanted:
        _log.warning("gateway.too_few_files", allowed=raised, sockets=sockets)


def _notice_dead_connections(listening: socket.socket) -> None:
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    tuning = {
        "TCP_KEEPIDLE": KEEPALIVE_IDLE_S,
        "TCP_KEEPINTVL": KEEPALIVE_INTERVAL_S,
        "TCP_KEEPCNT": KEEPALIVE_PROBES,
        "TCP_USER_TIMEOUT": UNACKNOWLEDGED_S * 1000,
    }
    for name, value in tuning.items():
        if hasattr(socket, name):  # not every system has each of them
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class GatewaySocketProtocol(WebSocketsSansIOProtocol):
    """Uvicorn's WebSocket protocol, except: large frames are copied less, closing does not cut the client off, a
    refused upgrade is no error, and the application can wait until its client attends (extension `ANSWERED`)."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # The parser holds on to its reader, so it begins anew; nothing has been received yet.
        self._reader = self.conn.reader = CollectingReader()
        self._descriptor = -1
        self.conn.parser = self.conn.parse()
        next(self.conn.parser)
        self._ping_numbers = itertools.count()
        self._pings: dict[bytes, asyncio.Future[None]] = {}

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        listening = transport.get_extra_info("socket")
        if transport.get_extra_info("sslcontext") is None and listening is not None and hasattr(os, "readv"):
            self._descriptor = listening.fileno()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._read_on()

    def _read_on(self) -> None:
        """Of a large frame, what has arrived already is read at once, into its place.

        The event loop reads some from each socket in turn, into bytes of their own. Of frames that many clients send at
        the same moment the first would be whole only when all nearly are, and nothing could be done meanwhile.
        """
        left = READ_ON_BYTES if self._descriptor >= 0 else 0
        while left > 0 and self._reader.rest and not self.read_paused and not self.transport.is_closing():
            try:
                count = os.readv(self._descriptor, [self._reader.rest])
            except OSError:
                return  # nothing more for now; or the connection broke, which the event loop finds out, too
            if not count:
                return  # the end, likewise
            left -= count
            self._reader.filled(count)
            if not self._reader.rest:
                super().data_received(b"")  # the parser goes on with the frame

    async def answered(self) -> None:
        """Sends a ping, and returns when the client has answered it: everything it was sent before has reached it."""
        if self.close_sent or self.transport.is_closing():
            return
        payload = struct.pack("!Q", next(self._ping_numbers))  # those of uvicorn have 4 bytes
        pong = self._pings[payload] = self.loop.create_future()
        try:
            self.conn.send_ping(payload)
            self.transport.write(b"".join(self.conn.data_to_send()))
            await pong
        finally:
            del self._pings[payload]

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.close_sent:  # the application begins with the next step of the loop
            cast(dict[str, object], self.scope["extensions"])[ANSWERED] = self.answered

    def handle_pong(self, event: Frame) -> None:
        pong = self._pings.get(bytes(event.data))
        if pong is None:
            super().handle_pong(event)
        elif not pong.done():
            pong.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for pong in self._pings.values():
            if not pong.done():
                pong.set_result(None)  # nobody is there to be waited for

    async def send(self, message: ASGISendEvent) -> None:
        """Uvicorn copies every frame twice. Weights go to many clients, and as the same bytes to all of them."""
        payload = message.get("bytes") if message["type"] == "websocket.send" else None
        if payload is None or len(payload) < SHARED_FROM_BYTES or not self.handshake_complete:
            await super().send(message)
            if self.initial_response is not None and self.close_sent:
                self.handshake_complete = True  # answered; uvicorn would log that the application forgot to
            return
        await self.writable.wait()
        if self.disconnected or self.close_sent:
            raise ClientDisconnected
        assert isinstance(payload, bytes), "frames are bytes"
        # RFC 6455, section 5.2: FIN and opcode 2 (binary); not masked; 64-bit length. Nothing was negotiated that
        # changes frames (per-message-deflate is off).
        self.transport.writelines([struct.pack("!BBQ", 0x82, 127, len(payload)), payload])

    def handle_parser_exception(self) -> None:
        """A frame over the limit, say. A client that is still sending would be reset by a connection that closes at
        once, and never see the code that says why: it is told that nothing more comes, and what it still sends is
        discarded until it closes."""
        if self.close_sent:
            return
        assert self.conn.close_sent is not None, "the parser closes before it reports"
        code, reason = self.conn.close_sent.code, self.conn.close_sent.reason
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.close_sent = True
        self.stop_keepalive()
        self.read_paused = False
        self.transport.resume_reading()
        self.close_timer = self.loop.call_later(LINGER_S, self.transport.close)


class WebServer(uvicorn.Server):
    """Uvicorn's server, which leaves signals to the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop_accepting(self) -> None:
        """Refuses new connections; those that are open stay."""
        if self.started:
            for listening in self.servers:
                listening.close()


def new_server(app: ASGIApp, settings: GatewaySettings) -> WebServer:
    """A server for the gateway's application, with everything decided but where it listens."""
    config = uvicorn.Config(
        app,
        loop="none",
        http="httptools",
        ws=GatewaySocketProtocol,
        ws_max_size=settings.max_message_bytes,
        ws_per_message_deflate=False,
        ws_ping_interval=PING_S,
        ws_ping_timeout=None,
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # the address a request came from is believed, and no header about it
        server_header=False,
        timeout_keep_alive=IDLE_HTTP_S,
        timeout_graceful_shutdown=DRAIN_HTTP_S,
    )
    return WebServer(config)
