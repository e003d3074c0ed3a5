"""Models over HTTP: the newest version of a task's model in a rendering's words, each body made once.

A body of many bytes is not held: it is streamed from the task service to each reader, where the weights stand in it
as they are. Knows the task service's stream of a model; nothing of HTTP but content types and entity tags.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from disco.task.v1.task_service_pb2 import DownloadModelRequest, DownloadModelResponse

from gateway.body_cache import BodyCache
from gateway.dialects.dialect import ModelHead, Rendering
from gateway.http_bodies import ServedBody, StreamedBody
from gateway.shared_lookup import SharedLookup
from gateway.versions import IDLE_TIMEOUT_S
from learning.refusals import Fault, MalformedMessage, StoreUnavailable
from rpc.chunks import chunk_parts, collect
from rpc.off_loop import off_loop

if TYPE_CHECKING:
    from disco.task.v1.task_service_pb2_grpc import TaskServiceAsyncStub

HEADER_WITHIN_S = 5.0
HELD_TO_BYTES = 16 << 20
"""Weights beyond this are streamed to each reader."""
SHARD = "shard"
_SHARD_HEAD = ModelHead("application/octet-stream", b"", weights_follow=True)
_STREAMED_SIZE = 16 << 10
"""What remembering a streamed body may take."""
_TAG_CHARACTERS = 32
_TEXT_COST = 16
"""Writing weights as text, which some renderings do, takes as long as going over so many times their bytes."""

Download = tuple[DownloadModelResponse.Header, AsyncIterator[DownloadModelResponse]]


class Models:
    """One per gateway."""

    def __init__(self, task_service: TaskServiceAsyncStub, *, limit_bytes: int) -> None:
        self._task_service = task_service
        self._limit_bytes = limit_bytes
        self._bodies: BodyCache[ServedBody | StreamedBody] = BodyCache(max_bytes=4 * limit_bytes, size=_held)
        self._numbers = SharedLookup(self._newest_number)

    async def model(self, task_id: str, rendering: Rendering) -> ServedBody | StreamedBody:
        """The newest model as `rendering` writes it. Raises what reading or rendering it failed with."""
        return await self._newest(task_id, rendering)

    async def shard(self, task_id: str) -> ServedBody | StreamedBody:
        """The newest weights as they are: little-endian float32 in the order of the weight specs."""
        return await self._newest(task_id, None)

    async def _newest_number(self, task_id: str) -> int:
        async with self._download(task_id, None) as (header, _):
            return int(header.version)

    async def _newest(self, task_id: str, rendering: Rendering | None) -> ServedBody | StreamedBody:
        form = rendering.name if rendering else SHARD
        try:
            version = await self._numbers.find(task_id)
            return await self._bodies.get_or_make(
                task_id, form, version, lambda: self._make(task_id, version, rendering)
            )
        except Fault:
            # While the task service is away, the newest model that is known here beats none.
            newest = self._bodies.newest(task_id, form)
            if newest is None:
                raise
            return newest[1]

    async def _make(self, task_id: str, version: int, rendering: Rendering | None) -> ServedBody | StreamedBody:
        async with self._download(task_id, version) as (header, messages):
            size, form = header.weights_size, rendering.name if rendering else SHARD
            head = rendering.render_head(header.model, size) if rendering else _SHARD_HEAD
            tag = _tag(header.weights_sha256.hex(), form)
            if head is not None and not head.weights_follow:
                return ServedBody(head.content_type, head.octets, tag)
            if head is not None and size > HELD_TO_BYTES:
                stream = partial(self._stream, task_id, version, head.octets)
                return StreamedBody(head.content_type, len(head.octets) + size, tag, stream)
            weights, digest = await collect(
                chunk_parts(messages), size=size, limit=self._limit_bytes, idle_timeout=IDLE_TIMEOUT_S
            )
        if digest != header.weights_sha256.hex():
            raise MalformedMessage(problem="the weights do not have the digest that was announced")
        if head is not None:
            return ServedBody(head.content_type, b"".join((head.octets, weights)), tag)
        assert rendering is not None, "a shard has a head"
        body = await off_loop(_TEXT_COST * len(weights), rendering.render_model, header.model, memoryview(weights))
        # What does not end in the weights as they are is a GPT, or an array of byte numbers: a try tells what it saves.
        return ServedBody(body.content_type, body.body, tag, shrinks=True)

    async def _stream(self, task_id: str, version: int, head: bytes) -> AsyncGenerator[bytes, None]:
        """The service checks the digest at the end of its stream: a body that is not what was announced breaks off."""
        yield head
        async with self._download(task_id, version) as (_, messages):
            chunks = chunk_parts(messages)
            while True:
                async with asyncio.timeout(IDLE_TIMEOUT_S):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                yield chunk

    @asynccontextmanager
    async def _download(self, task_id: str, version: int | None) -> AsyncIterator[Download]:
        """A stream of a model: its header, and the messages that follow it."""
        stream = self._task_service.DownloadModel(DownloadModelRequest(task_id=task_id, version=version))
        try:
            messages = aiter(stream)
            try:
                async with asyncio.timeout(HEADER_WITHIN_S):
                    first = await anext(messages, None)
            except TimeoutError:
                raise StoreUnavailable from None
            if first is None or first.WhichOneof("part") != "header":
                raise MalformedMessage(problem="the stream of a model must begin with its header")
            yield first.header, messages
        finally:
            stream.cancel()


def _tag(digest: str, form: str) -> str:
    return f'"{digest[:_TAG_CHARACTERS]}-{form}"'


def _held(served: ServedBody | StreamedBody) -> int:
    return served.size if isinstance(served, ServedBody) else _STREAMED_SIZE
