"""A task's record after its creation, on a real directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from blobstore import names, records, task_updates
from blobstore.directory import DirectoryBlobStore
from blobstore.records import Model, TaskRecord, WeightSpec
from blobstore.store import BlobExists
from learning.ids import TaskId
from learning.refusals import TaskNotFound
from learning.task import Task
from tests.blobstore.tasks import write_task
from tests.services.task_service.tasks import task

SMALL = TaskId("small")
WEIGHTS = b"\0" * 24


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryBlobStore]:
    async with DirectoryBlobStore(tmp_path) as store:
        yield store


async def _created(store: DirectoryBlobStore, task_id: TaskId = SMALL) -> TaskRecord:
    model = Model("tfjs", "{}", (WeightSpec("w", (6,)),))
    return await write_task(store, replace(task(), task_id=task_id), model, WEIGHTS, request_id="", now=1.0)


def _titled(title: str) -> Task:
    return replace(task(), display=replace(task().display, title=title))


async def test_the_newest_update_holds_for_every_replica(store: DirectoryBlobStore) -> None:
    first = await _created(store)
    second = await task_updates.add(store, first, _titled("two"), request_id="r2", now=2.0)
    third = await task_updates.add(store, second, _titled("three"), request_id="r3", now=3.0)
    assert [first.revision, second.revision, third.revision] == [1, 2, 3]
    assert await task_updates.read(store, SMALL) == third
    assert third.task.display.title == "three"
    found = await task_updates.of_request(store, SMALL, "r2")
    assert found is not None
    assert (found.revision, found.task, found.update_time) == (2, _titled("two"), 2.0)
    assert await records.read_task(store, SMALL) == first


async def test_of_two_updates_of_one_revision_one_is_made(store: DirectoryBlobStore) -> None:
    first = await _created(store)
    await task_updates.add(store, first, _titled("mine"), request_id="a", now=2.0)
    with pytest.raises(BlobExists):
        await task_updates.add(store, first, _titled("yours"), request_id="b", now=2.0)
    assert (await task_updates.read(store, SMALL)).task.display.title == "mine"


async def test_a_torn_update_counts_as_none_and_stands_in_nobodys_way(store: DirectoryBlobStore) -> None:
    # What should happen: the update before it holds, and the next one is written behind it.
    first = await _created(store)
    second = await task_updates.add(store, first, _titled("two"), request_id="", now=2.0)
    await store.write(names.task_update(SMALL, 3), [b'{"revision"'])
    assert await task_updates.read(store, SMALL) == second
    after = await task_updates.add(store, second, _titled("four"), request_id="", now=4.0)
    assert after.revision == 4
    assert await task_updates.read(store, SMALL) == after


async def test_the_last_hundred_updates_are_kept(store: DirectoryBlobStore) -> None:
    now = await _created(store)
    for number in range(task_updates.KEPT_UPDATES + 5):
        now = await task_updates.add(store, now, _titled(str(number)), request_id=str(number), now=2.0)
    kept = await store.list(names.task_updates(SMALL))
    assert len(kept) == task_updates.KEPT_UPDATES
    assert await task_updates.read(store, SMALL) == now
    assert await task_updates.of_request(store, SMALL, "0") is None


async def test_a_deleted_task_is_gone_and_its_deletion_says_where_its_ledger_ended(store: DirectoryBlobStore) -> None:
    # What should happen: a task with the longest id can be deleted, too; another one is left as it is.
    longest = TaskId("x" * 128)
    await _created(store)
    await _created(store, longest)
    await store.write(names.partial_sum(longest, 0, "replica", 0), [b"sum"])  # type: ignore[arg-type]
    await task_updates.delete(store, longest, request_id="r", now=9.0)
    with pytest.raises(TaskNotFound):
        await task_updates.read(store, longest)
    assert await task_updates.list_deleted(store) == [longest]
    deletion = await task_updates.find_deletion(store, longest)
    assert deletion is not None
    assert (deletion.task_id, deletion.request_id, deletion.delete_time, deletion.last_version) == (
        longest,
        "r",
        9.0,
        0,
    )
    assert len(deletion.entry_digest) == 64

    assert await task_updates.forget(store, longest) == 3
    left = await store.list("")
    assert names.deletion(longest) in left
    assert [name for name in left if longest in name] == [names.deletion(longest)]
    assert await records.list_tasks(store) == [SMALL]
    assert await task_updates.find_deletion(store, SMALL) is None
