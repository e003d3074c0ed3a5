"""A DNS server for one name, whose addresses a test changes while it runs: as much of RFC 1035 as gRPC asks for."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

A = (1).to_bytes(2, "big")
IN = (1).to_bytes(2, "big")
ANSWERED = b"\x81\x80"
THE_NAME_ASKED_FOR = b"\xc0\x0c"
NEVER_KEPT = bytes(4)


@dataclass
class NameServer:
    """`addresses` are what every name has."""

    addresses: list[str]
    port: int = 0

    def answer(self, request: bytes) -> bytes:
        end = request.index(b"\0", 12) + 5
        question = request[12:end]
        kind = question[-4:-2]
        found = [ipaddress.IPv4Address(address).packed for address in self.addresses] if kind == A else []
        counts = b"".join(count.to_bytes(2, "big") for count in (1, len(found), 0, 0))
        records = (THE_NAME_ASKED_FOR + A + IN + NEVER_KEPT + (4).to_bytes(2, "big") + packed for packed in found)
        return request[:2] + ANSWERED + counts + question + b"".join(records)


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(self._server.answer(data), addr)


@asynccontextmanager
async def name_server(*addresses: str) -> AsyncIterator[NameServer]:
    server = NameServer(list(addresses))
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Protocol(server), local_addr=("127.0.0.1", 0)
    )
    server.port = transport.get_extra_info("sockname")[1]
    try:
        yield server
    finally:
        transport.close()
