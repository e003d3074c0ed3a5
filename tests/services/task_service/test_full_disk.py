"""A disk that is full: a clear refusal, and nothing half-written. On a real directory."""

from __future__ import annotations

import resource
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
import pytest_asyncio
from disco.task.v1 import task_pb2, task_service_pb2

from blobstore.directory import WRITING, DirectoryBlobStore
from blobstore.staged_file import StagedFile
from blobstore.store import Buffer, StoreFull
from learning.ids import TaskId
from learning.refusals import StorageFull, StoreUnavailable
from roundstore.task_hints import MemoryTaskHints
from rpc.task_messages import task_to_proto
from services.task_service.catalog import Catalog
from services.task_service.foreign_files import converted_file
from services.task_service.new_weights import OfferedWeights
from services.task_service.task_changes import TaskChanges
from tests.services.task_service.replicas import LIMIT, replica
from tests.services.task_service.tasks import SPECS, model, task

SMALL = TaskId("small")
WEIGHTS = np.arange(6, dtype="<f4").tobytes()


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryBlobStore]:
    async with DirectoryBlobStore(tmp_path) as store:
        yield store


@contextmanager
def files_of(size: int) -> Iterator[None]:
    """The system lets this process write files of so many bytes and none larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class SmallDisk(DirectoryBlobStore):
    """Has no room for a blob of more bytes than `room`. (A limit of the system would also stop what is logged.)"""

    room = 1 << 30

    async def write(self, name: str, parts: Sequence[Buffer], *, replace: bool = True) -> None:
        if sum(memoryview(part).nbytes for part in parts) > self.room:
            raise StoreFull
        await super().write(name, parts, replace=replace)

    @asynccontextmanager
    async def staged(self) -> AsyncIterator[StagedFile]:
        async with super().staged() as staged:
            append = staged.append

            async def limited(data: Buffer) -> None:
                if staged.size + len(data) > self.room:
                    raise StoreFull
                await append(data)

            staged.append = limited  # type: ignore[method-assign]
            yield staged


async def test_what_does_not_fit_is_refused_and_leaves_no_byte(store: DirectoryBlobStore, tmp_path: Path) -> None:
    # What should happen: the blob that was there stays; no part of the new one lies anywhere.
    await store.write("a/b", [b"old"])
    with files_of(1000), pytest.raises(StoreFull):
        await store.write("a/b", [bytes(1000), b"x"])
    assert issubclass(StoreFull, StoreUnavailable)
    assert await store.read("a/b") == b"old"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["b"]


async def test_a_task_for_which_there_is_no_room_is_refused_by_name_over_grpc(
    tmp_path: Path,
) -> None:
    # What should happen: STORAGE_FULL, which nobody repeats; no task and no byte of one; with room again it is created.
    offered = model(*SPECS)
    header = task_service_pb2.CreateTaskRequest.Header(
        task=task_to_proto(task()),
        model=task_pb2.Model(
            kind=task_pb2.Model.KIND_TFJS,
            topology_json=offered.topology_json.encode(),
            weight_specs=[task_pb2.WeightSpec(name=spec.name, shape=spec.shape) for spec in offered.weight_specs],
        ),
        weights_size=len(WEIGHTS),
    )
    parts = [
        task_service_pb2.CreateTaskRequest(header=header),
        task_service_pb2.CreateTaskRequest(weights_chunk=WEIGHTS),
    ]
    async with SmallDisk(tmp_path) as store, replica(store, MemoryTaskHints()) as stub:
        for store.room in (10, 100):  # the weights do not fit; they do, and the model does not
            with pytest.raises(StorageFull) as refused:
                await stub.CreateTask(iter(parts), timeout=20)
            cause = refused.value.__cause__
            assert isinstance(cause, grpc.aio.AioRpcError)
            assert cause.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
        listed = await stub.ListTasks(task_service_pb2.ListTasksRequest(), timeout=20)
        assert list(listed.tasks) == []
        store.room = 1 << 30
        assert (await stub.CreateTask(iter(parts), timeout=20)).task.task_id == "small"


async def test_a_record_that_does_not_fit_is_no_task_and_leaves_nothing(
    store: DirectoryBlobStore, tmp_path: Path
) -> None:
    # What should happen: the record is written last; where it alone fails, what was written before it goes again.
    class FullAtTheEnd(DirectoryBlobStore):
        async def write(self, name: str, parts: Sequence[Buffer], *, replace: bool = True) -> None:
            if name.endswith("task.json"):
                raise StoreFull
            await super().write(name, parts, replace=replace)

    async with FullAtTheEnd(tmp_path) as full:
        with pytest.raises(StorageFull):
            await Catalog(full, max_bytes=LIMIT).create(task(), model(*SPECS), WEIGHTS, request_id="r", now=1.0)
    assert await store.list("") == []


async def test_a_disk_that_is_full_in_the_middle_of_an_upload_is_refused_by_name_and_leaves_no_byte(
    tmp_path: Path,
) -> None:
    # What should happen: the third chunk does not fit; the upload ends there; fork and initial weights fare as well.
    async with SmallDisk(tmp_path) as store:
        catalog = Catalog(store, max_bytes=LIMIT)
        await catalog.create(task("source"), model(*SPECS), WEIGHTS, request_id="", now=1.0)
        before = await store.list("")
        taken: list[int] = []

        async def chunks() -> AsyncGenerator[bytes, None]:
            for start in range(0, len(WEIGHTS), 4):
                taken.append(start)
                yield WEIGHTS[start : start + 4]

        store.room = 8
        for creation in (
            catalog.create(task(), model(*SPECS), OfferedWeights(24, chunks()), request_id="", now=1.0),
            catalog.create(task(), model(), None, request_id="", now=1.0),
            catalog.fork(TaskId("source"), None, SMALL, title="", request_id="", now=1.0),
        ):
            with pytest.raises(StorageFull):
                await creation
        assert taken == [0, 4, 8]
        assert await store.list("") == before
        assert list((tmp_path / WRITING).iterdir()) == []


async def test_a_file_of_keras_that_does_not_fit_among_the_temporary_files_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield bytes(900)
        yield bytes(900)

    with files_of(1000), pytest.raises(StorageFull):
        async with converted_file("m.h5", chunks(), max_bytes=LIMIT):
            pass
    assert list(tmp_path.iterdir()) == []


async def test_an_update_that_does_not_fit_changes_nothing(store: DirectoryBlobStore) -> None:
    catalog = Catalog(store, max_bytes=LIMIT)
    created = await catalog.create(task(), model(*SPECS), WEIGHTS, request_id="", now=1.0)
    longer = replace(task(), display=replace(task().display, overview="x" * 5000))
    with files_of(1000), pytest.raises(StorageFull):
        await TaskChanges(store).update(longer, expected=1, request_id="", now=2.0)
    assert (await catalog.task(SMALL))[0] == created
