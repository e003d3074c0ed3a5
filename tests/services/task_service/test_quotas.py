"""Quotas hold for what is created at the same moment, exactly on one replica, and never exceeded on several."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from disco.task.v1 import task_pb2, task_service_pb2

from blobstore import creations, names, records
from blobstore.directory import DirectoryBlobStore
from blobstore.records import TaskRecord
from blobstore.store import BlobStore
from learning.ids import TaskId
from learning.refusals import QuotaExceeded, StreamStalled, WeightsNotFinite
from roundstore.task_hints import MemoryTaskHints
from rpc.task_messages import task_to_proto
from services.task_service.catalog import Catalog
from services.task_service.new_weights import OfferedWeights
from services.task_service.quotas import Quotas
from tests.services.task_service.replicas import replica
from tests.services.task_service.tasks import SPECS, model, task
from tests.simulation.memory_blobs import MemoryBlobStore

WEIGHTS = np.arange(6, dtype="<f4").tobytes()
LIMIT = 1 << 20
MANY = 12


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryBlobStore]:
    async with DirectoryBlobStore(tmp_path) as store:
        yield store


async def at_once(_: float) -> None:
    """The pause of those who do not wait for their turn, but for that of others that are ready to go on."""
    await asyncio.sleep(0)


def replicas_of(store: BlobStore, count: int, *, max_tasks: int = 0, max_bytes: int = 0) -> list[Catalog]:
    quotas = [Quotas(store, max_tasks=max_tasks, max_bytes=max_bytes, pause=at_once) for _ in range(count)]
    return [Catalog(store, max_bytes=LIMIT, quotas=each) for each in quotas]


async def create(catalog: Catalog, task_id: str, request_id: str = "") -> TaskRecord:
    return await catalog.create(task(task_id), model(*SPECS), WEIGHTS, request_id=request_id, now=1.0)


@pytest.mark.parametrize("limits", [{"max_tasks": 5}, {"max_bytes": 5 * len(WEIGHTS) + 23}])
async def test_one_replica_creates_exactly_as_many_as_there_may_be_however_many_come_at_once(
    store: DirectoryBlobStore, limits: dict[str, int]
) -> None:
    (catalog,) = replicas_of(store, 1, **limits)
    await create(catalog, "first")
    answers = await asyncio.gather(*(create(catalog, f"t{n}") for n in range(MANY)), return_exceptions=True)
    assert sum(isinstance(answer, TaskRecord) for answer in answers) == 4
    assert sum(isinstance(answer, QuotaExceeded) for answer in answers) == MANY - 4
    assert len(await records.list_tasks(store)) == 5
    assert await creations.under_way(store) == []


async def test_forks_count_as_what_is_created_at_once(store: DirectoryBlobStore) -> None:
    (catalog,) = replicas_of(store, 1, max_tasks=3)
    await create(catalog, "first")
    forks = (
        catalog.fork(TaskId("first"), None, TaskId(f"t{n}"), title="", request_id="", now=2.0) for n in range(MANY)
    )
    answers = await asyncio.gather(*forks, create(catalog, "last"), return_exceptions=True)
    assert sum(isinstance(answer, TaskRecord) for answer in answers) == 2
    assert len(await records.list_tasks(store)) == 3


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("limits", [{"max_tasks": 5}, {"max_bytes": 5 * len(WEIGHTS)}])
async def test_several_replicas_never_create_more_than_there_may_be(seed: int, limits: dict[str, int]) -> None:
    # What should happen: whoever is refused is refused by name, and what was held for him is free again.
    turns = np.random.default_rng(seed)

    async def pause() -> None:
        for _ in range(turns.choice([0, 1, 5])):
            await asyncio.sleep(0)

    store = MemoryBlobStore(pause=pause)
    catalogs = replicas_of(store, 3, **limits)
    answers = await asyncio.gather(*(create(catalogs[n % 3], f"t{n}") for n in range(MANY)), return_exceptions=True)
    created = await records.list_tasks(store)
    assert len(created) == sum(isinstance(answer, TaskRecord) for answer in answers) <= 5
    assert all(isinstance(answer, TaskRecord | QuotaExceeded) for answer in answers)
    for number in range(5 - len(created)):
        await create(catalogs[number % 3], f"later{number}")
    with pytest.raises(QuotaExceeded):
        await create(catalogs[0], "one_more")


class Meeting(MemoryBlobStore):
    """The first two that look at what is under way do so together, when both have said that they ask."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self._both = asyncio.Event()

    async def list(self, prefix: str) -> list[str]:
        if prefix == names.CREATIONS:
            self.looks += 1
            if self.looks == 2:
                self._both.set()
            await self._both.wait()
        return await super().list(prefix)


@pytest.mark.parametrize("limits", [{"max_tasks": 1}, {"max_bytes": len(WEIGHTS)}])
async def test_of_two_replicas_that_ask_for_the_last_room_at_once_one_gets_it(limits: dict[str, int]) -> None:
    # What should happen: each refuses for the other's sake; then one waits for a shorter time, and finds room.
    # What should not happen: both are refused, and nobody has the room.
    store, paused, done = Meeting(), asyncio.Event(), asyncio.Event()

    async def long(_: float) -> None:
        paused.set()
        await done.wait()

    async def short(_: float) -> None:
        await paused.wait()

    slow, quick = (
        Catalog(store, max_bytes=LIMIT, quotas=Quotas(store, pause=pause, **limits)) for pause in (long, short)
    )
    refused = asyncio.create_task(create(slow, "slow"))
    async with asyncio.timeout(10):
        await create(quick, "quick")
        done.set()
        with pytest.raises(QuotaExceeded):
            await refused
    assert (await records.list_tasks(store), await creations.under_way(store)) == (["quick"], [])


async def test_who_stays_in_the_way_of_another_replica_is_waited_for_twice(store: DirectoryBlobStore) -> None:
    pauses: list[float] = []

    async def noted(longest_s: float) -> None:
        pauses.append(longest_s)

    catalog = Catalog(store, max_bytes=LIMIT, quotas=Quotas(store, max_tasks=1, pause=noted))
    elsewhere = await creations.begin(store, TaskId("elsewhere"), size=len(WEIGHTS))
    with pytest.raises(QuotaExceeded):
        await create(catalog, "here")
    assert pauses == [0.1, 0.4]
    await creations.end(store, elsewhere)
    await create(catalog, "here")
    # What is there stays: nobody waits for it.
    with pytest.raises(QuotaExceeded):
        await create(catalog, "more")
    assert pauses == [0.1, 0.4]


async def test_two_replicas_served_at_once_never_exceed_the_quota(store: DirectoryBlobStore) -> None:
    hints = MemoryTaskHints()
    offered = model(*SPECS)
    sent = task_pb2.Model(
        kind=task_pb2.Model.KIND_TFJS,
        topology_json=offered.topology_json.encode(),
        weight_specs=[task_pb2.WeightSpec(name=spec.name, shape=spec.shape) for spec in SPECS],
    )

    def parts(task_id: str) -> list[task_service_pb2.CreateTaskRequest]:
        header = task_service_pb2.CreateTaskRequest.Header(
            task=task_to_proto(task(task_id)), model=sent, weights_size=len(WEIGHTS)
        )
        return [
            task_service_pb2.CreateTaskRequest(header=header),
            task_service_pb2.CreateTaskRequest(weights_chunk=WEIGHTS),
        ]

    async with (
        replica(store, hints, quotas=Quotas(store, max_tasks=4)) as one,
        replica(store, hints, quotas=Quotas(store, max_tasks=4)) as two,
    ):
        answers = await asyncio.gather(
            *((one, two)[n % 2].CreateTask(iter(parts(f"t{n}")), timeout=20) for n in range(MANY)),
            return_exceptions=True,
        )
        created = sum(isinstance(answer, task_service_pb2.CreateTaskResponse) for answer in answers)
        assert sum(isinstance(answer, QuotaExceeded) for answer in answers) == MANY - created
        assert len(await records.list_tasks(store)) == created <= 4


async def test_room_is_held_from_the_header_on_and_free_again_when_the_upload_fails(store: DirectoryBlobStore) -> None:
    # What should happen: while one uploads, nobody else gets the last room; the chunks of one for whom there is
    # none are not read; the upload that fails, is refused or goes away makes room.
    (catalog,) = replicas_of(store, 1, max_bytes=len(WEIGHTS))
    for ending in ("fails", "is refused", "goes away"):
        arrived, may_go = asyncio.Event(), asyncio.Event()

        async def slow(
            ending: str = ending, arrived: asyncio.Event = arrived, may_go: asyncio.Event = may_go
        ) -> AsyncGenerator[bytes, None]:
            yield WEIGHTS[:12]
            arrived.set()
            await may_go.wait()
            if ending == "fails":
                raise StreamStalled(seconds="1")
            yield np.full(3, np.nan, "<f4").tobytes()

        async def untouched() -> AsyncGenerator[bytes, None]:
            raise AssertionError("was read")
            yield b""

        uploading = asyncio.create_task(
            catalog.create(task("slow"), model(*SPECS), OfferedWeights(24, slow()), request_id="", now=1.0)
        )
        await arrived.wait()
        with pytest.raises(QuotaExceeded) as refused:
            await catalog.create(task(), model(*SPECS), OfferedWeights(24, untouched()), request_id="", now=1.0)
        assert refused.value.variables == {"quota": "DISCO_MAX_STORED_BYTES", "limit": "24"}
        if ending == "goes away":
            uploading.cancel()
        may_go.set()
        with pytest.raises((StreamStalled, WeightsNotFinite, asyncio.CancelledError)):
            await uploading
        assert await creations.under_way(store) == []
    await create(catalog, "small")


async def test_the_same_request_twice_at_once_takes_room_once(store: DirectoryBlobStore) -> None:
    one, two = replicas_of(store, 2, max_tasks=1, max_bytes=len(WEIGHTS))
    first, second, third = await asyncio.gather(*(create(each, "small", "r") for each in (one, two, one)))
    assert first == second == third
    assert await create(two, "small", "r") == first


async def test_a_task_whose_mark_is_still_there_counts_once(store: DirectoryBlobStore) -> None:
    (catalog,) = replicas_of(store, 1, max_tasks=2, max_bytes=2 * len(WEIGHTS))
    await create(catalog, "first")
    await creations.begin(store, TaskId("first"), size=len(WEIGHTS))
    await create(catalog, "second")


async def test_default_tasks_are_created_whatever_the_quota(store: DirectoryBlobStore) -> None:
    (catalog,) = replicas_of(store, 1, max_tasks=1)
    await catalog.add_default_tasks(["titanic", "digits"], now=1.0)
    with pytest.raises(QuotaExceeded):
        await create(catalog, "small")
