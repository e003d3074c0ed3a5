from __future__ import annotations

import asyncio
import hashlib
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from blobstore import names, records
from blobstore.directory import DirectoryBlobStore
from blobstore.records import LedgerEntry, Model
from learning.ids import TaskId
from learning.refusals import (
    InvalidModel,
    InvalidTask,
    StoredDataDamaged,
    TaskAlreadyExists,
    TaskNotFound,
    VersionNotFound,
)
from services.task_service.catalog import Catalog
from services.task_service.default_tasks import DEFAULT_TASKS
from tests.services.task_service.tasks import SPECS, model, task
from tests.services.task_service.topologies import dense, sequential, text

WEIGHTS = np.arange(6, dtype="<f4").tobytes()
LIMIT = 100 << 20
SMALL = TaskId("small")


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryBlobStore]:
    async with DirectoryBlobStore(tmp_path) as store:
        yield store


@pytest.fixture
def catalog(store: DirectoryBlobStore) -> Catalog:
    return Catalog(store, max_bytes=LIMIT)


async def _publish(store: DirectoryBlobStore, number: int, weights: bytes) -> None:
    entry = LedgerEntry(number, hashlib.sha256(weights).hexdigest(), base_digest="", create_time=0.0)
    await records.write_version(store, SMALL, weights, entry)


async def _downloaded(catalog: Catalog, number: int | None = None) -> bytes:
    version = await catalog.version(SMALL, number)
    return b"".join([chunk async for chunk in catalog.weights(version, chunk_size=7)])


async def test_a_created_task_is_there_for_every_replica(catalog: Catalog, store: DirectoryBlobStore) -> None:
    created = await catalog.create(task(), model(*SPECS), WEIGHTS, request_id="", now=12.5)
    assert created.create_time == 12.5
    assert created.initial_digest == hashlib.sha256(WEIGHTS).hexdigest()
    record, kept = await Catalog(store, max_bytes=LIMIT).task(SMALL)
    assert record == created
    assert kept.weight_specs == SPECS
    assert await _downloaded(catalog) == WEIGHTS


async def test_the_same_request_gets_the_same_answer_and_changes_nothing(catalog: Catalog) -> None:
    first = await catalog.create(task(), model(*SPECS), WEIGHTS, request_id="r1", now=1.0)
    assert await catalog.create(task(), model(*SPECS), WEIGHTS, request_id="r1", now=2.0) == first


async def test_another_task_of_the_same_id_is_refused_and_leaves_no_trace(
    catalog: Catalog, store: DirectoryBlobStore
) -> None:
    # What should happen: everything but the very same request is refused.
    # What should not happen: the task that is there changes, or anything is stored.
    first = await catalog.create(task(), model(*SPECS), WEIGHTS, request_id="r1", now=1.0)
    before = await store.list("")
    other_weights = np.ones(6, "<f4").tobytes()
    for attempt in (
        catalog.create(task(), model(*SPECS), WEIGHTS, request_id="r2", now=2.0),
        catalog.create(task(), model(*SPECS), WEIGHTS, request_id="", now=2.0),
        catalog.create(task(), model(*SPECS), other_weights, request_id="r1", now=2.0),
        catalog.create(task(optimizer="adam"), model(*SPECS), WEIGHTS, request_id="r1", now=2.0),
        catalog.create(task(), model(), None, request_id="r1", now=2.0),
    ):
        with pytest.raises(TaskAlreadyExists):
            await attempt
    assert await store.list("") == before
    assert (await catalog.task(SMALL))[0] == first


async def test_a_request_without_id_is_not_idempotent(catalog: Catalog) -> None:
    await catalog.create(task(), model(), None, request_id="", now=1.0)
    with pytest.raises(TaskAlreadyExists):
        await catalog.create(task(), model(), None, request_id="", now=1.0)


@pytest.mark.parametrize("request_ids", [["r0", "r1", "r2", "r3", "r4", "r5"], [""] * 6])
async def test_of_many_who_create_one_task_at_once_exactly_one_succeeds(
    request_ids: list[str], store: DirectoryBlobStore
) -> None:
    replicas = [Catalog(store, max_bytes=LIMIT) for _ in request_ids]
    outcomes = await asyncio.gather(
        *(
            replica.create(task(), model(*SPECS), WEIGHTS, request_id=request_id, now=1.0)
            for request_id, replica in zip(request_ids, replicas, strict=True)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, TaskAlreadyExists) for outcome in outcomes) == 5
    assert sum(isinstance(outcome, records.TaskRecord) for outcome in outcomes) == 1


async def test_of_many_who_repeat_one_request_at_once_all_get_the_same_answer(store: DirectoryBlobStore) -> None:
    replicas = [Catalog(store, max_bytes=LIMIT) for _ in range(6)]
    answers = await asyncio.gather(
        *(
            replica.create(task(), model(*SPECS), WEIGHTS, request_id="r", now=float(index))
            for index, replica in enumerate(replicas)
        )
    )
    assert len({answer.create_time for answer in answers}) == 1


async def test_a_refused_task_is_not_there(catalog: Catalog, store: DirectoryBlobStore) -> None:
    with pytest.raises(InvalidModel):
        await catalog.create(task(), Model("tfjs", "{}", ()), None, request_id="", now=1.0)
    with pytest.raises(InvalidTask, match="request_id"):
        await catalog.create(task(), model(), None, request_id="x" * 129, now=1.0)
    assert await store.list("") == []
    with pytest.raises(TaskNotFound):
        await catalog.task(SMALL)


async def test_tasks_are_listed_by_id_page_by_page(catalog: Catalog) -> None:
    for name in ("c", "a", "e", "B", "d"):
        await catalog.create(task(name), model(), None, request_id="", now=1.0)
    found: list[list[str]] = []
    token = ""
    while True:
        page, token = await catalog.page(size=2, after=token)
        found.append([record.task.task_id for record in page])
        if not token:
            break
    assert found == [["B", "a"], ["c", "d"], ["e"]]
    assert [record.task.task_id for record in (await catalog.page(size=0, after=""))[0]] == ["B", "a", "c", "d", "e"]
    assert await catalog.page(size=2, after="zzz") == ([], "")


async def test_a_damaged_record_does_not_hide_the_other_tasks(catalog: Catalog, store: DirectoryBlobStore) -> None:
    for name in ("a", "b", "c"):
        await catalog.create(task(name), model(), None, request_id="", now=1.0)
    await store.write(names.task_record(TaskId("b")), [b"{"])
    assert [record.task.task_id for record in (await catalog.page(size=10, after=""))[0]] == ["a", "c"]
    with pytest.raises(StoredDataDamaged):
        await catalog.task(TaskId("b"))


async def test_the_newest_version_is_what_is_downloaded_and_older_ones_can_be(
    catalog: Catalog, store: DirectoryBlobStore
) -> None:
    await catalog.create(task(), model(*SPECS), WEIGHTS, request_id="", now=1.0)
    versions = {number: np.full(6, number, "<f4").tobytes() for number in (1, 2)}
    for number, weights in versions.items():
        await _publish(store, number, weights)
    assert (await catalog.version(SMALL, None)).entry.version == 2
    assert await _downloaded(catalog) == versions[2]
    assert await _downloaded(catalog, 1) == versions[1]
    assert await _downloaded(catalog, 0) == WEIGHTS
    with pytest.raises(VersionNotFound):
        await catalog.version(SMALL, 3)
    with pytest.raises(TaskNotFound):
        await catalog.version(TaskId("gone"), None)


@pytest.mark.parametrize("damage", [WEIGHTS[:-1], WEIGHTS + b"\0", WEIGHTS[:-1] + b"\1", b""])
async def test_damaged_weights_are_never_taken_for_whole(
    catalog: Catalog, store: DirectoryBlobStore, damage: bytes
) -> None:
    record = await catalog.create(task(), model(*SPECS), WEIGHTS, request_id="", now=1.0)
    await store.write(names.weights(SMALL, record.initial_digest), [damage])
    with pytest.raises(StoredDataDamaged):
        await _downloaded(catalog)


async def test_lost_weights_and_lost_models_are_named(catalog: Catalog, store: DirectoryBlobStore) -> None:
    record = await catalog.create(task(), model(*SPECS), WEIGHTS, request_id="", now=1.0)
    await store.delete(names.weights(SMALL, record.initial_digest))
    with pytest.raises(StoredDataDamaged, match=record.initial_digest):
        await _downloaded(catalog)
    await store.delete(names.model(SMALL, record.model_digest))
    with pytest.raises(StoredDataDamaged, match=record.model_digest):
        await catalog.task(SMALL)


async def test_a_large_model_is_read_in_chunks_and_never_held_whole(
    catalog: Catalog, store: DirectoryBlobStore
) -> None:
    count = 12 << 20
    wide = Model("tfjs", text(sequential(dense("d", count, use_bias=False, kernel_initializer="zeros"), shape=[1])), ())
    await catalog.create(task(), wide, None, request_id="", now=1.0)
    tracemalloc.start()
    try:
        version = await catalog.version(SMALL, None)
        size = 0
        async for chunk in catalog.weights(version, chunk_size=1 << 20):
            size += len(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == version.size == 4 * count
    assert peak < 6 << 20


async def test_default_tasks_are_there_from_the_start_and_again_after_it(
    catalog: Catalog, store: DirectoryBlobStore
) -> None:
    await catalog.add_default_tasks(["digits", "titanic"], now=1.0)
    page, _ = await catalog.page(size=0, after="")
    assert [record.task for record in page] == [DEFAULT_TASKS["digits"]().task, DEFAULT_TASKS["titanic"]().task]
    before = await store.list("")
    await catalog.add_default_tasks(["digits", "titanic"], now=2.0)
    assert await store.list("") == before


async def test_replicas_that_start_at_once_on_nothing_all_succeed_with_the_same_bytes(
    store: DirectoryBlobStore,
) -> None:
    replicas = [Catalog(store, max_bytes=LIMIT) for _ in range(3)]
    await asyncio.gather(*(replica.add_default_tasks(list(DEFAULT_TASKS), now=1.0) for replica in replicas))
    page, _ = await replicas[0].page(size=0, after="")
    assert {record.task.task_id for record in page} == set(DEFAULT_TASKS)
    assert len(await store.list("")) == 3 * len(DEFAULT_TASKS)


async def test_a_task_of_somebody_keeps_the_id_of_a_default_task(catalog: Catalog) -> None:
    own = replace(task("digits"), display=replace(task().display, title="Mine"))
    await catalog.create(own, model(), None, request_id="", now=1.0)
    await catalog.add_default_tasks(["digits"], now=2.0)
    assert (await catalog.task(TaskId("digits")))[0].task == own
