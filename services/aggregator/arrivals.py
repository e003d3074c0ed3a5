"""The three ways in which the weights of a contribution arrive: as a stream, in the message itself, in a file.

Each hands out the weights once it is told how many bytes there must be. Knows bytes; nothing of rounds.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable
from typing import Protocol

from disco.aggregator.v1.handover_pb2 import HandedOver

from blobstore.store import Buffer
from learning.refusals import DigestMismatch, InvalidWeights, MalformedMessage, NotHandedOver, StreamStalled
from rpc.chunks import CHUNK_BYTES, collect
from rpc.handover import FileUnreadable, Handover
from rpc.off_loop import off_loop

RECEIVE_TIMEOUT_S = 120.0
"""For a whole stream: a trickle must not hold its memory for ever."""


class Arrival(Protocol):
    """Weights that are about to arrive."""

    digest: str
    """Their SHA-256, in lower-case hex; empty until it is known."""

    async def received(self, size: int) -> Buffer:
        """Raises the refusal of weights that are not `size` bytes long, or not what was announced."""
        ...


class Streamed:
    """Chunks that follow an announcement. `limit` bounds what may be announced at all."""

    def __init__(self, chunks: AsyncIterable[bytes], *, digest: str, limit: int, idle_timeout_s: float) -> None:
        self.digest = digest
        self._chunks = chunks
        self._limit = limit
        self._idle_timeout_s = idle_timeout_s

    async def received(self, size: int) -> Buffer:
        """Raises InvalidWeights, DigestMismatch, StreamStalled, MalformedMessage."""
        try:
            async with asyncio.timeout(RECEIVE_TIMEOUT_S):
                weights, received = await collect(
                    self._chunks, size=size, limit=self._limit, idle_timeout=self._idle_timeout_s
                )
        except TimeoutError:
            raise StreamStalled(seconds=f"{RECEIVE_TIMEOUT_S:g}") from None
        if received != self.digest:
            raise DigestMismatch(received=received, announced=self.digest)
        return weights


class InMessage:
    """Weights that came with the call."""

    def __init__(self, octets: bytes) -> None:
        self.digest = ""
        self._octets = octets

    async def received(self, size: int) -> Buffer:
        """Raises MalformedMessage, InvalidWeights."""
        if len(self._octets) > CHUNK_BYTES:
            raise MalformedMessage(problem=f"a message holds at most {CHUNK_BYTES} bytes of weights")
        _check_size(len(self._octets), size)
        self.digest = hashlib.sha256(self._octets).hexdigest()
        return self._octets


class InFile:
    """Weights in a file that the caller owns. Without a handover of our own, no file can be taken."""

    def __init__(self, handover: Handover | None, handed_over: HandedOver) -> None:
        self.digest = ""
        self._handover = handover
        self._handed_over = handed_over

    async def received(self, size: int) -> Buffer:
        """Raises InvalidWeights, NotHandedOver."""
        _check_size(self._handed_over.size, size)
        if self._handover is None:
            raise NotHandedOver
        return await off_loop(size, self._read, self._handover)

    def _read(self, handover: Handover) -> Buffer:
        try:
            weights = handover.taken(self._handed_over)
        except FileUnreadable:
            raise NotHandedOver from None
        self.digest = hashlib.sha256(weights).hexdigest()
        return weights


def _check_size(told: int, size: int) -> None:
    if told != size:
        raise InvalidWeights(problem=f"{told} bytes came, the model has {size}")
