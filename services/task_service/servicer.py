"""disco.task.v1.TaskService: messages in, messages out; the catalog decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from disco.task.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc
from google.protobuf.timestamp_pb2 import Timestamp

from blobstore.records import Model, TaskRecord, WeightSpec
from learning.ids import task_id
from learning.limits import MAX_TENSORS
from learning.refusals import InvalidModel, MalformedMessage, ModelNotSent, TooLarge
from rpc.chunks import chunk_parts, measured
from rpc.task_messages import task_from_proto, task_to_proto
from services.task_service.catalog import Catalog
from services.task_service.foreign_files import converted_file
from services.task_service.leftovers import Leftovers
from services.task_service.new_weights import OfferedWeights, announced_weights
from services.task_service.task_changes import TaskChanges
from services.task_service.task_news import TaskNews, TaskNewsItem
from services.task_service.topology.document import MAX_DIMENSION, MAX_JSON_BYTES

IDLE_TIMEOUT_S = 30.0
DOWNLOAD_CHUNK_BYTES = 256 << 10
"""Each transfer holds a handful of chunks in each process on its way: small ones, since there may be many transfers."""
RECEIVE_TIMEOUT_S = 600.0
"""For all weights together: few tasks are created at once, and a trickle must not hold such a place for ever."""
MAX_CREATIONS = 2
"""Tasks that are created at the same time; each may hold a topology in memory, and its weights on the disk."""

_KINDS = {task_pb2.Model.KIND_TFJS: "tfjs", task_pb2.Model.KIND_GPT: "gpt"}


class TaskServicer(task_service_pb2_grpc.TaskServiceServicer):
    """`clock` tells seconds since the epoch; `max_bytes` limits the weights of one task."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        changes: TaskChanges,
        news: TaskNews,
        leftovers: Leftovers,
        clock: Callable[[], float],
        max_bytes: int,
        idle_timeout: float = IDLE_TIMEOUT_S,
    ) -> None:
        self._catalog = catalog
        self._changes = changes
        self._news = news
        self._leftovers = leftovers
        self._clock = clock
        self._max_bytes = max_bytes
        self._idle_timeout = idle_timeout
        self._creations = asyncio.Semaphore(MAX_CREATIONS)

    async def ListTasks(  # noqa: N802 (the name in the contract)
        self, request: task_service_pb2.ListTasksRequest, context: Any
    ) -> task_service_pb2.ListTasksResponse:
        page, token = await self._catalog.page(size=request.page_size, after=request.page_token)
        return task_service_pb2.ListTasksResponse(
            tasks=[_task_message(record) for record in page], next_page_token=token
        )

    async def WatchTasks(  # noqa: N802
        self, request: task_service_pb2.WatchTasksRequest, context: Any
    ) -> AsyncIterator[task_service_pb2.WatchTasksResponse]:
        async with aclosing(self._news.watch()) as news:
            async for item in news:
                # Returns when there is room in the stream: for a slow reader, what happens meanwhile becomes one.
                yield _news_message(item)

    async def GetTask(  # noqa: N802
        self, request: task_service_pb2.GetTaskRequest, context: Any
    ) -> task_service_pb2.GetTaskResponse:
        record, model = await self._catalog.task(task_id(request.task_id))
        return task_service_pb2.GetTaskResponse(task=_task_message(record), model=_model_message(model))

    async def CreateTask(  # noqa: N802
        self, request_iterator: AsyncIterator[task_service_pb2.CreateTaskRequest], context: Any
    ) -> task_service_pb2.CreateTaskResponse:
        messages = aiter(request_iterator)
        first = await anext(messages, None)
        if first is None or first.WhichOneof("part") != "header":
            raise MalformedMessage(problem="the first message must be a header")
        header = first.header
        task = task_from_proto(header.task)
        if header.weights_size > self._max_bytes:
            raise TooLarge(limit_bytes=self._max_bytes)
        async with self._creations, self._offered(header, messages) as (offered, weights):
            if header.HasField("weights_digest"):
                announced = header.weights_digest
                weights = announced_weights(weights, algorithm=announced.algorithm, digest=announced.value)
            record = await self._catalog.create(task, offered, weights, request_id=header.request_id, now=self._clock())
        self._news.announce(record.task.task_id)
        return task_service_pb2.CreateTaskResponse(
            task=_task_message(record), weights_sha256=bytes.fromhex(record.initial_digest)
        )

    @asynccontextmanager
    async def _offered(
        self,
        header: task_service_pb2.CreateTaskRequest.Header,
        messages: AsyncIterator[task_service_pb2.CreateTaskRequest],
    ) -> AsyncIterator[tuple[Model, OfferedWeights | None]]:
        """A model and its weights, which are still to come; or what is in a model's file.

        Raises ModelNotSent where neither came.
        """
        chunks = measured(
            chunk_parts(messages),
            size=header.weights_size,
            limit=self._max_bytes,
            idle_timeout=self._idle_timeout,
            in_all_s=RECEIVE_TIMEOUT_S,
        )
        if header.model_file:
            async with converted_file(header.model_file, chunks, max_bytes=self._max_bytes) as converted:
                yield converted
            return
        if not header.model.ByteSize() and header.task.training.model_url:
            raise ModelNotSent(task_id=header.task.task_id)
        offered = _model(header.model)
        if header.weights_size:
            yield offered, OfferedWeights(header.weights_size, chunks)
            return
        async for _ in chunks:
            raise AssertionError("a chunk where none was announced")
        yield offered, None

    async def ForkTask(  # noqa: N802
        self, request: task_service_pb2.ForkTaskRequest, context: Any
    ) -> task_service_pb2.ForkTaskResponse:
        record = await self._catalog.fork(
            task_id(request.source_task_id),
            request.source_version if request.HasField("source_version") else None,
            task_id(request.task_id),
            title=request.title,
            request_id=request.request_id,
            now=self._clock(),
        )
        assert record.source is not None, "a fork has a source"
        self._news.announce(record.task.task_id)
        return task_service_pb2.ForkTaskResponse(
            task=_task_message(record),
            source_version=record.source.version,
            weights_sha256=bytes.fromhex(record.initial_digest),
        )

    async def UpdateTask(  # noqa: N802
        self, request: task_service_pb2.UpdateTaskRequest, context: Any
    ) -> task_service_pb2.UpdateTaskResponse:
        record = await self._changes.update(
            task_from_proto(request.task),
            keep=[part for part in ("policy", "aggregation") if not request.task.HasField(part)],
            expected=request.task.revision,
            request_id=request.request_id,
            now=self._clock(),
        )
        self._news.announce(record.task.task_id)
        return task_service_pb2.UpdateTaskResponse(task=_task_message(record))

    async def DeleteTask(  # noqa: N802
        self, request: task_service_pb2.DeleteTaskRequest, context: Any
    ) -> task_service_pb2.DeleteTaskResponse:
        deleted = task_id(request.task_id)
        await self._changes.delete(deleted, expected=request.revision, request_id=request.request_id, now=self._clock())
        self._news.announce(deleted)
        self._leftovers.announce()
        return task_service_pb2.DeleteTaskResponse()

    async def DownloadModel(  # noqa: N802
        self, request: task_service_pb2.DownloadModelRequest, context: Any
    ) -> AsyncIterator[task_service_pb2.DownloadModelResponse]:
        number = request.version if request.HasField("version") else None
        version = await self._catalog.version(task_id(request.task_id), number)
        yield task_service_pb2.DownloadModelResponse(
            header=task_service_pb2.DownloadModelResponse.Header(
                model=_model_message(version.model),
                version=version.entry.version,
                weights_size=version.size,
                weights_sha256=bytes.fromhex(version.entry.digest),
            )
        )
        async with aclosing(self._catalog.weights(version, chunk_size=DOWNLOAD_CHUNK_BYTES)) as chunks:
            async for chunk in chunks:
                yield task_service_pb2.DownloadModelResponse(weights_chunk=chunk)


def _task_message(record: TaskRecord) -> task_pb2.Task:
    message = task_to_proto(record.task)
    created = Timestamp()
    created.FromMicroseconds(round(record.create_time * 1e6))
    message.create_time.CopyFrom(created)
    message.revision = record.revision
    return message


def _news_message(item: TaskNewsItem) -> task_service_pb2.WatchTasksResponse:
    match item.kind:
        case "snapshot_complete":
            return task_service_pb2.WatchTasksResponse(snapshot_complete=True)
        case "deleted":
            return task_service_pb2.WatchTasksResponse(deleted_task_id=item.task_id)
        case kind:
            assert item.record is not None, "what is there has a record"
            response = task_service_pb2.WatchTasksResponse()
            getattr(response, kind).CopyFrom(_task_message(item.record))
            return response


def _model_message(model: Model) -> task_pb2.Model:
    kind = next(value for value, name in _KINDS.items() if name == model.kind)
    return task_pb2.Model(
        kind=kind,
        topology_json=model.topology_json.encode(),
        weight_specs=[task_pb2.WeightSpec(name=spec.name, shape=spec.shape) for spec in model.weight_specs],
        training_config_json=model.training_config_json.encode(),
    )


def _model(message: task_pb2.Model) -> Model:
    """Raises InvalidModel."""
    kind = _KINDS.get(message.kind)
    if kind is None:
        raise InvalidModel(problem="kind must say what it is, KIND_TFJS or KIND_GPT")
    if len(message.weight_specs) > MAX_TENSORS:
        raise InvalidModel(problem=f"it has more than {MAX_TENSORS} tensors")
    if any(size > MAX_DIMENSION for spec in message.weight_specs for size in spec.shape):
        raise InvalidModel(problem="a dimension of a weight spec is too large")
    return Model(
        kind=kind,
        topology_json=_text(message.topology_json, "the topology"),
        weight_specs=tuple(WeightSpec(spec.name, tuple(spec.shape)) for spec in message.weight_specs),
        training_config_json=_text(message.training_config_json, "the training configuration"),
    )


def _text(data: bytes, what: str) -> str:
    if len(data) > MAX_JSON_BYTES:
        raise InvalidModel(problem=f"{what} is larger than {MAX_JSON_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidModel(problem=f"{what} is not UTF-8") from None
