"""Clients that send and wait, and train nothing: one event loop, as little work for each byte as possible.

Contributions are prepared (`bench.frames`); of what comes back the first and the last
bytes are looked at and the rest is counted. All clients take part in every round.
"""

from __future__ import annotations

import asyncio
import base64
import os
import struct
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, cast

from bench.frames import Prepared, small_frame

KEPT = 128
"""Bytes of a message's start and end that are looked at."""
BUFFER_BYTES = 1 << 20
_ROUND, _TYPE = b"\xa5round", b"\xa4type"
_HTTP_END = b"\r\n\r\n"


@dataclass
class Course:
    """What all clients of a run share. Rounds are counted from the first that any of them contributes to."""

    contribution: Prepared
    rounds_limit: int
    seconds: float
    began: asyncio.Event = field(default_factory=asyncio.Event)
    began_at: float = 0.0
    rounds_begun: int = 0
    last_round: int | None = None
    contributions_sent: int = 0
    latencies: list[float] = field(default_factory=list)
    closed_at: list[float] = field(default_factory=list)
    """When the last client had its answer in each round."""
    answers: list[int] = field(default_factory=list)
    bytes_received: int = 0
    failed: asyncio.Future[None] | None = None

    def may_contribute(self, rounds_done: int) -> bool:
        """Everybody stops after the same round, or some would wait for others that are gone."""
        is_over = time.perf_counter() > self.began_at + self.seconds or rounds_done >= self.rounds_limit
        if self.last_round is None and is_over:
            self.last_round = self.rounds_begun
        if self.last_round is not None and rounds_done >= self.last_round:
            return False
        self.rounds_begun = max(self.rounds_begun, rounds_done + 1)
        return True

    def begin(self) -> None:
        self.began_at = time.perf_counter()
        self.began.set()

    def answered(self, rounds_done: int, seconds: float, *, clients: int) -> None:
        """A client has its answer in its round number `rounds_done` (from 1)."""
        self.latencies.append(seconds)
        if len(self.answers) < rounds_done:
            self.answers.append(0)
        self.answers[rounds_done - 1] += 1
        if self.answers[rounds_done - 1] == clients:
            self.closed_at.append(time.perf_counter())


class Client(asyncio.BufferedProtocol):
    """One participant. `greeted` and `finished` are told once each."""

    path: ClassVar[str]
    buffer: ClassVar[memoryview] = memoryview(bytearray(BUFFER_BYTES))
    """Of all clients: what comes is dealt with at once."""

    def __init__(
        self, task_id: str, course: Course, *, index: int, clients: int, on_change: Callable[[], None]
    ) -> None:
        self._task_id = task_id
        self._course = course
        self._index = index
        self._clients = clients
        self._on_change = on_change
        self._upgraded = False
        self._left = 0
        self._head = bytearray()
        self._message = bytearray()
        self._tail = b""
        self._sent_at = 0.0
        self._rounds_done = 0
        self.round = 0
        self.is_greeted = False
        self.is_finished = False

    # What a generation says.

    def greet(self) -> None:
        self.write(small_frame(type=0))

    def contribute(self) -> None:
        raise NotImplementedError

    def received(self, kind: int) -> None:
        raise NotImplementedError

    # What all have in common.

    def begin(self) -> None:
        """Contributes for the first time, or is finished."""
        if not self._course.may_contribute(self._rounds_done):
            self.is_finished = True
            self._on_change()
            return
        self._sent_at = time.perf_counter()
        self._course.contributions_sent += 1
        self.contribute()

    def write_contribution(self) -> None:
        variant = self._rounds_done * self._clients + self._index
        self.transport.writelines(self._course.contribution.parts(self.round, variant))

    def greeted(self) -> None:
        self.is_greeted = True
        self._on_change()

    def answered(self) -> None:
        self._rounds_done += 1
        self._course.answered(self._rounds_done, time.perf_counter() - self._sent_at, clients=self._clients)
        self.begin()

    def write(self, frame: bytes) -> None:
        self.transport.write(frame)

    def number(self, key: bytes) -> int:
        """A whole number of the message, by its key."""
        for part in (bytes(self._message), self._tail):
            at = part.find(key)
            if at >= 0:
                return _whole(part[at + len(key) :])
        raise AssertionError(f"no {key!r} in {bytes(self._message)!r}")

    # The socket.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        path = self.path.format(task=self._task_id, client=uuid.uuid4().hex)
        key = base64.b64encode(os.urandom(16)).decode()
        self.write(
            f"GET {path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def connection_lost(self, exc: Exception | None) -> None:
        failed = self._course.failed
        if not self.is_finished and failed is not None and not failed.done():
            failed.set_exception(exc or ConnectionError("the gateway closed a socket"))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._course.bytes_received += nbytes
        data = self.buffer[:nbytes]
        if not self._upgraded:
            data = self._upgrade(bytes(data))
        while data:
            data = self._frame(data) if self._left == 0 else self._payload(data)

    def _upgrade(self, data: bytes) -> memoryview:
        self._head += data
        head, end, rest = bytes(self._head).partition(_HTTP_END)
        if not end:
            return memoryview(b"")
        assert b" 101 " in head.split(b"\r\n")[0], head
        self._upgraded = True
        self._head.clear()
        self.greet()
        return memoryview(rest)

    def _frame(self, data: memoryview) -> memoryview:
        """Reads the header of a frame, which may come in pieces."""
        had = len(self._head)
        self._head += data[: 10 - had]
        size = {126: 4, 127: 10}.get(self._head[1] & 0x7F, 2) if len(self._head) > 1 else 2
        if len(self._head) < size:
            return memoryview(b"")
        opcode, short = self._head[0] & 0x0F, self._head[1] & 0x7F
        assert opcode in (2, 9), f"opcode {opcode}: {bytes(self._head)!r}"
        self._left = short if size == 2 else int.from_bytes(self._head[2:size], "big")
        self._is_message = opcode == 2
        self._head.clear()
        self._message.clear()
        self._tail = b""
        return data[size - had :]

    def _payload(self, data: memoryview) -> memoryview:
        part = data[: self._left]
        self._left -= len(part)
        if len(self._message) < KEPT:
            self._message += part[: KEPT - len(self._message)]
        self._tail = (self._tail + bytes(part[-KEPT:]))[-KEPT:]
        if self._left == 0 and self._is_message:
            self.received(self.number(_TYPE))
        return data[len(part) :]


class Float32Client(Client):
    """The dialect GDV: contributes, and is answered when the round is over."""

    path = "/federated/{task}"

    def contribute(self) -> None:
        self.write_contribution()

    def received(self, kind: int) -> None:
        if kind == 7:
            self.round = self.number(_ROUND)
            self.greeted()
        elif kind == 11:
            self.round = max(self.round, self.number(_ROUND))
            self.answered()


class ByteArrayClient(Client):
    """The dialect G21: contributes without an answer, pulls statistics, then pulls until there is a newer version."""

    path = "/feai/{task}/{client}"
    _statistics: ClassVar[bytes] = small_frame(type=13)
    _latest: ClassVar[bytes] = small_frame(type=11)

    def contribute(self) -> None:
        self.write_contribution()
        self.write(self._statistics)

    def received(self, kind: int) -> None:
        if kind == 0:
            self.greeted()
        elif kind == 13:
            self.write(self._latest)
        elif kind == 11:
            newest = self.number(_ROUND)
            if newest > self.round:
                self.round = newest
                self.answered()
            else:
                self.write(self._latest)


async def run_clients(kind: type[Client], task_id: str, course: Course, *, port: int, clients: int) -> None:
    """Connects all, lets them contribute until the course ends, and hangs up. Raises ConnectionError."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    failed: asyncio.Future[None] = loop.create_future()
    course.failed = failed
    everybody: list[Client] = []
    for index in range(clients):
        client = kind(task_id, course, index=index, clients=clients, on_change=changed.set)
        everybody.append(client)
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]

    async def until(true: Callable[[Client], bool]) -> None:
        while not all(map(true, everybody)):
            changed.clear()
            waiting = asyncio.ensure_future(changed.wait())
            await asyncio.wait((waiting, failed), return_when=asyncio.FIRST_COMPLETED)
            if failed.done():
                await failed

    try:
        await until(lambda client: client.is_greeted)
        course.begin()
        for client in everybody:
            client.begin()
        await until(lambda client: client.is_finished)
    finally:
        for client in everybody:
            client.is_finished = True
            client.transport.close()


def _whole(item: bytes) -> int:
    """The msgpack integer that comes first."""
    tag = item[0]
    if tag < 0x80:
        return tag
    form, size = {0xCC: (">B", 1), 0xCD: (">H", 2), 0xCE: (">I", 4), 0xCF: (">Q", 8)}[tag]
    return int(struct.unpack(form, item[1 : 1 + size])[0])
