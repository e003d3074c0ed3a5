"""Models over HTTP: the newest version of a task's model in a rendering's words, each body made once.

Knows the task service's stream of a model; nothing of HTTP but content types and entity tags.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from disco.task.v1.task_service_pb2 import DownloadModelRequest, DownloadModelResponse

from gateway.body_cache import BodyCache
from gateway.dialects.dialect import Rendering
from gateway.versions import IDLE_TIMEOUT_S, THREAD_FROM_BYTES
from learning.refusals import Fault, MalformedMessage, StoreUnavailable
from rpc.chunks import chunk_parts, collect

if TYPE_CHECKING:
    from disco.task.v1.task_service_pb2_grpc import TaskServiceAsyncStub

HEADER_WITHIN_S = 5.0
SHARD = "shard"
_TAG_CHARACTERS = 32

Download = tuple[DownloadModelResponse.Header, AsyncIterator[DownloadModelResponse]]


@dataclass(frozen=True, slots=True)
class ServedBody:
    """A body with what HTTP says about it. `tag` is an entity tag, quotes included."""

    content_type: str
    body: bytes
    tag: str


class Models:
    """One per gateway."""

    def __init__(self, task_service: TaskServiceAsyncStub, *, limit_bytes: int) -> None:
        self._task_service = task_service
        self._limit_bytes = limit_bytes
        self._bodies: BodyCache[ServedBody] = BodyCache(max_bytes=4 * limit_bytes, size=lambda served: len(served.body))

    async def model(self, task_id: str, rendering: Rendering) -> ServedBody:
        """The newest model as `rendering` writes it. Raises what reading or rendering it failed with."""
        return await self._newest(task_id, rendering)

    async def shard(self, task_id: str) -> ServedBody:
        """The newest weights as they are: little-endian float32 in the order of the weight specs."""
        return await self._newest(task_id, None)

    async def _newest(self, task_id: str, rendering: Rendering | None) -> ServedBody:
        form = rendering.name if rendering else SHARD
        try:
            async with self._download(task_id, None) as (header, _):
                version = header.version
            return await self._bodies.get_or_make(
                task_id, form, version, lambda: self._make(task_id, version, rendering)
            )
        except Fault:
            # While the task service is away, the newest model that is known here beats none.
            newest = self._bodies.newest(task_id, form)
            if newest is None:
                raise
            return newest[1]

    async def _make(self, task_id: str, version: int, rendering: Rendering | None) -> ServedBody:
        async with self._download(task_id, version) as (header, messages):
            weights, digest = await collect(
                chunk_parts(messages), size=header.weights_size, limit=self._limit_bytes, idle_timeout=IDLE_TIMEOUT_S
            )
        if digest != header.weights_sha256.hex():
            raise MalformedMessage(problem="the weights do not have the digest that was announced")
        if rendering is None:
            return ServedBody("application/octet-stream", bytes(weights), _tag(digest, SHARD))
        if len(weights) < THREAD_FROM_BYTES:
            body = rendering.render_model(header.model, memoryview(weights))
        else:
            body = await asyncio.to_thread(rendering.render_model, header.model, memoryview(weights))
        return ServedBody(body.content_type, body.body, _tag(digest, rendering.name))

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
