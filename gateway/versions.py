"""The newest versions as sockets send them: read from an aggregator once, encoded once per dialect.

Encoded weights are shared by all sockets as the same bytes, and so are the
frames around them: memory does not grow with the number of readers.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from disco.aggregator.v1.aggregator_service_pb2 import ReadVersionRequest

from gateway.body_cache import BodyCache
from gateway.dialects.dialect import Dialect
from gateway.dialects.messages import ContributionAnswer, EncodedWeights, Latest, ServerMessage, Shapes
from learning.refusals import DiscoError, MalformedMessage, VersionNotFound
from rpc.channel import retrying
from rpc.chunks import chunk_parts, collect

if TYPE_CHECKING:
    from disco.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceAsyncStub

IDLE_TIMEOUT_S = 10.0
FRAMES_KEPT = 4
"""Frames of one version in one dialect that are kept; each is as large as the version."""
THREAD_FROM_BYTES = 256 << 10
"""Work on more bytes than this happens in a thread, so that the event loop goes on."""


class Versions:
    """One per gateway."""

    def __init__(self, aggregator: AggregatorServiceAsyncStub, *, limit_bytes: int) -> None:
        self._aggregator = aggregator
        self._limit_bytes = limit_bytes
        self._encoded: BodyCache[EncodedWeights] = BodyCache(max_bytes=4 * limit_bytes, size=len)
        self._frames: dict[tuple[str, str], tuple[EncodedWeights, dict[tuple[int, int], bytes]]] = {}

    async def encoded(
        self, task_id: str, version: int, dialect: Dialect, *, seconds: float
    ) -> tuple[int, EncodedWeights]:
        """A version in a dialect's words, or the newest one that can be had within `seconds`, with its number.

        Raises what reading failed with where there is none at all.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._wanted_or_newest(task_id, version, dialect, seconds=seconds)
        except (DiscoError, TimeoutError):
            known = self._encoded.newest(task_id, dialect.name)
            if known is None:
                raise
            return known

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
            body = await _encode(dialect, weights, shapes)
            self._encoded.put(task_id, dialect.name, number, body)
            return number, body

    async def _read_and_encode(self, task_id: str, version: int, dialect: Dialect, *, seconds: float) -> EncodedWeights:
        _, weights, shapes = await retrying(lambda: self._read(task_id, version), seconds=seconds)
        return await _encode(dialect, weights, shapes)

    async def _read(self, task_id: str, version: int | None) -> tuple[int, bytes | memoryview, Shapes]:
        stream = self._aggregator.ReadVersion(ReadVersionRequest(task_id=task_id, version=version))
        try:
            messages = aiter(stream)
            first = await anext(messages, None)
            if first is None or first.WhichOneof("part") != "header":
                raise MalformedMessage(problem="the stream of a version must begin with its header")
            header = first.header
            weights, digest = await collect(
                chunk_parts(messages),
                size=header.weights_size,
                limit=self._limit_bytes,
                idle_timeout=IDLE_TIMEOUT_S,
            )
        finally:
            stream.cancel()
        if digest != header.sha256.hex():
            raise MalformedMessage(problem="the weights do not have the digest that was announced")
        return header.version, memoryview(weights), tuple(tuple(spec.shape) for spec in header.weight_specs)


async def _encode(dialect: Dialect, weights: bytes | memoryview, shapes: Shapes) -> EncodedWeights:
    if len(weights) < THREAD_FROM_BYTES:
        return dialect.encode_weights(weights, shapes)
    return await asyncio.to_thread(dialect.encode_weights, weights, shapes)
