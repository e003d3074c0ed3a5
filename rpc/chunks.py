"""Weights in chunks: cutting them up for a stream, and collecting them again under limits.

Knows sizes, silence and SHA-256; nothing of tensors, nor of which call streams.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from learning.refusals import InvalidWeights, MalformedMessage, StreamStalled, TooLarge

CHUNK_BYTES = 1 << 20
MAX_FRAME_BYTES = (4 << 20) + (64 << 10)
"""The largest single gRPC message: 4 MiB, and slack for what surrounds them."""


Buffer = bytes | bytearray | memoryview


class MessageOfParts(Protocol):
    """A message of a stream that carries weights: `oneof part { header, weights_chunk }`."""

    @property
    def weights_chunk(self) -> bytes: ...

    def WhichOneof(self, oneof_group: Literal["part"], /) -> str | None: ...  # noqa: N802 (protobuf's name)


def chunks_of(buffer: Buffer) -> Iterator[bytes]:
    """The bytes of a buffer in order, 1 MiB at a time; nothing for an empty one."""
    with memoryview(buffer) as whole, whole.cast("B") as octets:
        for start in range(0, len(octets), CHUNK_BYTES):
            yield bytes(octets[start : start + CHUNK_BYTES])


@dataclass(frozen=True, slots=True)
class Written:
    """A message as it travels: whoever sends it need not write it any more."""

    octets: bytes


def written_chunks_of(buffer: Buffer) -> Iterator[Written]:
    """As `chunks_of`, each chunk in its message (`weights_chunk` is field 2 of all of them): the bytes are copied once.

    Making the message copies them twice, and writing it a third time.
    """
    with memoryview(buffer) as whole, whole.cast("B") as octets:
        for start in range(0, len(octets), CHUNK_BYTES):
            yield Written(b"".join(bytes_field(2, octets[start : start + CHUNK_BYTES])))


async def chunk_parts(messages: AsyncIterable[MessageOfParts]) -> AsyncIterator[bytes]:
    """The chunks of the messages that follow a header. Raises MalformedMessage for any other message."""
    async for message in messages:
        if message.WhichOneof("part") != "weights_chunk":
            raise MalformedMessage(problem="only chunks of weights may follow the header")
        yield message.weights_chunk


async def measured(
    chunks: AsyncIterable[bytes], *, size: int, limit: int, idle_timeout: float, in_all_s: float = math.inf
) -> AsyncGenerator[bytes, None]:
    """The chunks as they come, `size` bytes as announced; what comes to another size ends with a refusal.

    Raises TooLarge before anything is read where more than `limit` bytes are
    announced, InvalidWeights as soon as more came than announced or when fewer came,
    MalformedMessage for an empty chunk, and StreamStalled where `idle_timeout` seconds pass between two chunks, or
    `in_all_s` from the first to the last one.
    """
    if size > limit:
        raise TooLarge(limit_bytes=limit)
    now = asyncio.get_running_loop().time
    deadline, arrived = now() + in_all_s, 0
    iterator = aiter(chunks)
    while True:
        patience = min(idle_timeout, deadline - now())
        try:
            async with asyncio.timeout(patience):
                chunk = await anext(iterator)
        except StopAsyncIteration:
            break
        except TimeoutError:
            raise StreamStalled(seconds=f"{idle_timeout if patience == idle_timeout else in_all_s:g}") from None
        if not chunk:
            raise MalformedMessage(problem="a chunk is empty")  # else an endless stream of them would never stall
        arrived += len(chunk)
        if arrived > size:
            raise InvalidWeights(problem=f"more than the announced {size} bytes came")
        yield chunk
    if arrived != size:
        raise InvalidWeights(problem=f"{arrived} bytes came, {size} were announced")


async def collect(chunks: AsyncIterable[bytes], *, size: int, limit: int, idle_timeout: float) -> tuple[bytearray, str]:
    """Collects `size` announced bytes; returns them and their SHA-256 in hex.

    Raises as `measured`. Holds no more memory than has arrived.
    """
    collected = bytearray()
    digest = hashlib.sha256()
    async for chunk in measured(chunks, size=size, limit=limit, idle_timeout=idle_timeout):
        collected += chunk
        digest.update(chunk)
    return collected, digest.hexdigest()


def bytes_field(number: int, *octets: Buffer) -> tuple[Buffer, ...]:
    """A field of bytes, or of a message that is written already, as Protocol Buffers write it; nothing is copied.

    Setting such a field and writing the message around it would copy the bytes twice.
    """
    return _varint(number << 3 | 2), _varint(sum(map(len, octets))), *octets


def _varint(number: int) -> bytes:
    """As Protocol Buffers write lengths: seven bits at a time, the lowest first."""
    octets = bytearray()
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)
