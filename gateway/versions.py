"""The newest versions as sockets send them: brought or read from an aggregator once, encoded once per dialect.

Encoded weights are shared by all sockets as the same bytes, and so are the
frames around them: memory does not grow with the number of readers.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING

from disco.aggregator.v1.aggregator_service_pb2 import NewVersion, ReadVersionRequest, ReadVersionResponse
from disco.aggregator.v1.handover_pb2 import HandedOver

from gateway.body_cache import BodyCache
from gateway.dialects.dialect import Dialect
from gateway.dialects.messages import ContributionAnswer, EncodedWeights, Latest, ServerMessage, Shapes
from learning.refusals import DiscoError, MalformedMessage, VersionNotFound
from rpc.channel import retrying
from rpc.chunks import chunk_parts, collect
from rpc.handover import STREAMED_FOR_S, FileUnreadable, Handover
from rpc.off_loop import off_loop

if TYPE_CHECKING:
    from disco.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceAsyncStub

IDLE_TIMEOUT_S = 10.0
BROUGHT_BYTES = 16 << 20
"""Of all versions that came with their news, as far as they came in the message."""
FRAMES_KEPT = 4
"""Frames of one version in one dialect that are kept; each is as large as the version."""


class Versions:
    """One per gateway."""

    def __init__(
        self,
        aggregator: AggregatorServiceAsyncStub,
        handover: Handover | None = None,
        *,
        limit_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self._aggregator = aggregator
        self._handover = handover
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._streamed_until = clock()
        self._brought: BodyCache[NewVersion] = BodyCache(max_bytes=BROUGHT_BYTES, size=NewVersion.ByteSize)
        self._encoded: BodyCache[EncodedWeights] = BodyCache(max_bytes=4 * limit_bytes, size=len)
        self._frames: dict[tuple[str, str], tuple[EncodedWeights, dict[tuple[int, int], bytes]]] = {}

    async def encoded(
        self, task_id: str, version: int, dialect: Dialect, *, seconds: float
    ) -> tuple[int, EncodedWeights]:
        """A version in a dialect's words, or the newest one that can be had within `seconds`, with its number.

        Raises what reading failed with where there is none at all.
        """
        if (body := self._encoded.get(task_id, dialect.name, version)) is not None:
            return version, body
        try:
            async with asyncio.timeout(seconds):
                return await self._wanted_or_newest(task_id, version, dialect, seconds=seconds)
        except (DiscoError, TimeoutError):
            known = self._encoded.newest(task_id, dialect.name)
            if known is None:
                raise
            return known

    def bring(self, task_id: str, version: NewVersion) -> None:
        """Takes a version that came with the news of it: it need not be read."""
        self._brought.put(task_id, "", version.header.version, version)

    def frame(self, task_id: str, dialect: Dialect, message: ServerMessage) -> bytes:
        """The frame of a message; the frames of a task's newest version are made once for all sockets."""
        match message:
            case Latest(round, body):
                said = round, 0
            case ContributionAnswer(round, body, participants):
                said = round, participants
            case _:
                return dialect.encode(message)
        weights, frames = self._frames.get((task_id, dialect.name), (None, {}))
        if weights is not body:
            frames = {}
            self._frames[task_id, dialect.name] = body, frames
        if (frame := frames.get(said)) is not None:
            return frame
        frame = dialect.encode(message)
        if len(frames) < FRAMES_KEPT:  # clients that count rounds on their own may each need another number
            frames[said] = frame
        return frame

    def forget(self, task_id: str) -> None:
        """Lets the frames of a task go that nobody here takes part in any more."""
        for key in [key for key in self._frames if key[0] == task_id]:
            del self._frames[key]

    async def _wanted_or_newest(
        self, task_id: str, version: int, dialect: Dialect, *, seconds: float
    ) -> tuple[int, EncodedWeights]:
        make = partial(self._read_and_encode, task_id, version, dialect, seconds=seconds)
        try:
            return version, await self._encoded.get_or_make(task_id, dialect.name, version, make)
        except VersionNotFound:
            # Versions moved on while we asked, and this one is no longer kept.
            number, weights, shapes = await self._read(task_id, None)
            body = await off_loop(len(weights), dialect.encode_weights, weights, shapes)
            self._encoded.put(task_id, dialect.name, number, body)
            return number, body

    async def _read_and_encode(self, task_id: str, version: int, dialect: Dialect, *, seconds: float) -> EncodedWeights:
        _, weights, shapes = await retrying(lambda: self._read(task_id, version), seconds=seconds)
        return await off_loop(len(weights), dialect.encode_weights, weights, shapes)

    async def _read(self, task_id: str, version: int | None) -> tuple[int, bytes | memoryview, Shapes]:
        brought = None if version is None else self._brought.get(task_id, "", version)
        if brought is not None:
            weights = await self._unpacked(brought)
            if weights is not None:
                return _as_read(brought.header, weights)
        request = ReadVersionRequest(task_id=task_id, version=version)
        if self._handover is not None and self._clock() >= self._streamed_until:
            request.takes_handover = True
            try:
                return await self._read_as(request)
            except FileUnreadable:
                self._streamed_until = self._clock() + STREAMED_FOR_S
                request.takes_handover = False
        return await self._read_as(request)

    async def _unpacked(self, brought: NewVersion) -> bytes | memoryview | None:
        """None where the weights are not whole, or were in a file that is used for others by now."""
        size = brought.header.weights_size
        if brought.WhichOneof("weights") == "handed_over":
            try:
                return await self._taken(brought.handed_over, size=size)
            except FileUnreadable:
                return None
        is_whole = len(brought.octets) == size and hashlib.sha256(brought.octets).digest() == brought.header.sha256
        return brought.octets if is_whole and size <= self._limit_bytes else None

    async def _taken(self, handed_over: HandedOver, *, size: int) -> memoryview:
        """Raises FileUnreadable."""
        if self._handover is None or handed_over.size != size or size > self._limit_bytes:
            raise FileUnreadable
        return await off_loop(size, self._handover.taken, handed_over)

    async def _read_as(self, request: ReadVersionRequest) -> tuple[int, bytes | memoryview, Shapes]:
        """Raises FileUnreadable."""
        stream = self._aggregator.ReadVersion(request)
        try:
            messages = aiter(stream)
            first = await anext(messages, None)
            if first is None or first.WhichOneof("part") != "header":
                raise MalformedMessage(problem="the stream of a version must begin with its header")
            weights = await self._weights(first.header, messages)
        finally:
            stream.cancel()
        return _as_read(first.header, memoryview(weights))

    async def _weights(
        self, header: ReadVersionResponse.Header, messages: AsyncIterator[ReadVersionResponse]
    ) -> bytearray | memoryview:
        """Raises FileUnreadable."""
        size = header.weights_size
        second = await anext(messages, None)
        if second is not None and second.WhichOneof("part") == "handed_over":
            return await self._taken(second.handed_over, size=size)
        weights, digest = await collect(
            chunk_parts(_again(second, messages)), size=size, limit=self._limit_bytes, idle_timeout=IDLE_TIMEOUT_S
        )
        if digest != header.sha256.hex():
            raise MalformedMessage(problem="the weights do not have the digest that was announced")
        return weights


def _as_read(header: ReadVersionResponse.Header, weights: bytes | memoryview) -> tuple[int, bytes | memoryview, Shapes]:
    return header.version, weights, tuple(tuple(spec.shape) for spec in header.weight_specs)


async def _again(
    first: ReadVersionResponse | None, others: AsyncIterator[ReadVersionResponse]
) -> AsyncIterator[ReadVersionResponse]:
    """A stream whose first message was read already."""
    if first is not None:
        yield first
    async for message in others:
        yield message
