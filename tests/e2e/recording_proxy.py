"""A TCP proxy that keeps what clients sent, so that a test can compute for itself what the server should have done.

It forwards bytes (but those that it is told to hide) and understands nothing while it runs; `contributions` reads
the record afterwards, with the WebSocket parser of the `websockets` library and
msgspec's plain msgpack decoder: none of the code under test.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field

import msgspec
import numpy as np
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

POST_WEIGHTS = 8


@dataclass(frozen=True)
class Sent:
    """The weights of one postWeightsToServer message of dialect G21."""

    path: str
    label: int
    weights: bytes
    """Concatenated float32, little-endian."""

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.weights).hexdigest()


@dataclass
class RecordingProxy:
    """Listens on a free loopback port and forwards every connection to `port`."""

    port: int
    hides: tuple[bytes, bytes] = (b"", b"")
    """What clients say, and what they seem to say instead, as long as that: headers are passed on as they come."""
    records: list[bytearray] = field(default_factory=list)
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)
    _connections: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> RecordingProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.append(connection)
        self._writers.append(writer)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.close()
            return
        self._writers.append(up_writer)
        record = bytearray()
        self.records.append(record)
        await asyncio.gather(_pump(reader, up_writer, record, hides=self.hides), _pump(up_reader, writer, bytearray()))

    def contributions(self) -> list[Sent]:
        """Everything that was sent as a contribution, connection by connection."""
        return [sent for record in self.records for sent in _contributions(bytes(record))]


async def _pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    record: bytearray,
    *,
    hides: tuple[bytes, bytes] = (b"", b""),
) -> None:
    said, instead = hides
    assert len(said) == len(instead), "the length of a body has been announced"
    try:
        while data := await reader.read(1 << 16):
            data = data.replace(said, instead) if said else data
            record += data
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def _contributions(record: bytes) -> list[Sent]:
    head, _, frames = record.partition(b"\r\n\r\n")
    if b"upgrade: websocket" not in head.lower():
        return []
    protocol = ServerProtocol(max_size=None)
    protocol.receive_data(head + b"\r\n\r\n")
    (request,) = protocol.events_received()
    assert isinstance(request, Request)
    protocol.send_response(protocol.accept(request))
    protocol.receive_data(frames)
    messages = [
        msgspec.msgpack.decode(event.data)
        for event in protocol.events_received()
        if isinstance(event, Frame) and event.opcode is Opcode.BINARY
    ]
    return [
        Sent(path=request.path, label=message["round"], weights=_float32(message["weights"]))
        for message in messages
        if message["type"] == POST_WEIGHTS
    ]


def _float32(encoded: list[int] | bytes) -> bytes:
    document = msgspec.msgpack.decode(bytes(encoded))
    return b"".join(np.asarray(tensor["data"], dtype="<f4").tobytes() for tensor in document)
