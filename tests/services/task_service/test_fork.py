"""A task that begins with a version of another one."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from blobstore import ledger, policies, records, retention
from blobstore.directory import DirectoryBlobStore
from blobstore.records import LedgerEntry, Source, TaskRecord
from learning.ids import TaskId
from learning.policy import Policy
from learning.refusals import InvalidTask, TaskAlreadyExists, TaskNotFound, VersionNotFound
from services.task_service.catalog import Catalog
from tests.services.task_service.tasks import SPECS, model, task

SMALL, COPY = TaskId("small"), TaskId("copy")
WEIGHTS = [np.full(6, number, "<f4").tobytes() for number in range(4)]


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryBlobStore]:
    async with DirectoryBlobStore(tmp_path) as store:
        yield store


@pytest_asyncio.fixture
async def catalog(store: DirectoryBlobStore) -> Catalog:
    """With a task of four versions."""
    catalog = Catalog(store, max_bytes=1 << 20)
    await catalog.create(task(), model(*SPECS), WEIGHTS[0], request_id="", now=1.0)
    for number in (1, 2, 3):
        digest = hashlib.sha256(WEIGHTS[number]).hexdigest()
        entry = LedgerEntry(number, digest, base_digest="", create_time=0.0, task_id=SMALL)
        await records.write_version(store, SMALL, WEIGHTS[number], entry)
    return catalog


async def forked(
    catalog: Catalog, number: int | None = 2, request_id: str = "r1", source: str = SMALL, title: str = ""
) -> TaskRecord:
    return await catalog.fork(TaskId(source), number, COPY, title=title, request_id=request_id, now=5.0)


async def weights_of(catalog: Catalog, task_id: TaskId) -> bytes:
    version = await catalog.version(task_id, None)
    return b"".join([chunk async for chunk in catalog.weights(version, chunk_size=7)])


@pytest.mark.parametrize(("number", "expected"), [(0, 0), (2, 2), (None, 3)])
async def test_version_zero_is_the_version_that_was_asked_for(
    catalog: Catalog, store: DirectoryBlobStore, number: int | None, expected: int
) -> None:
    record = await forked(catalog, number)
    source = await records.read_task(store, SMALL)
    data = await records.read_entry_bytes(store, SMALL, expected)
    assert record == replace(
        source,
        task=replace(source.task, task_id=COPY),
        create_time=5.0,
        request_id="r1",
        initial_digest=hashlib.sha256(WEIGHTS[expected]).hexdigest(),
        source=Source(task_id=SMALL, version=expected, entry_digest=ledger.digest_of_entry(data)),
    )
    assert await weights_of(catalog, COPY) == WEIGHTS[expected]
    assert await weights_of(catalog, SMALL) == WEIGHTS[3]
    entry = await records.read_ledger_entry(store, COPY, 0)
    assert (entry.rule, entry.previous) == ("fork", ledger.digest_of_entry(data))


async def test_a_fork_may_have_a_title_and_has_the_policy_in_force(catalog: Catalog, store: DirectoryBlobStore) -> None:
    policy = Policy(min_participants=5)
    await policies.add(store, SMALL, policy, request_id="", now=2.0)
    record = await forked(catalog, title="A second try")
    assert (record.task.display.title, record.task.policy) == ("A second try", policy)


async def test_the_same_request_gets_the_same_answer_and_others_are_refused(catalog: Catalog) -> None:
    first = await forked(catalog)
    assert await forked(catalog) == first
    assert await forked(catalog, None) == first  # the newest may be another one by now
    for number, request_id in ((2, "r2"), (2, ""), (1, "r1")):
        with pytest.raises(TaskAlreadyExists):
            await forked(catalog, number, request_id)
    with pytest.raises(InvalidTask):
        await forked(catalog, 2, "r" * 129)


async def test_a_task_that_is_no_fork_is_never_taken_for_one(catalog: Catalog) -> None:
    with pytest.raises(TaskAlreadyExists):
        await catalog.fork(SMALL, 2, SMALL, title="", request_id="", now=5.0)


async def test_what_is_not_there_or_no_longer_kept_is_refused(catalog: Catalog, store: DirectoryBlobStore) -> None:
    with pytest.raises(TaskNotFound):
        await forked(catalog, source="nope")
    with pytest.raises(VersionNotFound):
        await forked(catalog, 4)
    await retention.sweep(store, SMALL, oldest=3)
    with pytest.raises(VersionNotFound):
        await forked(catalog, 2)
    with pytest.raises(VersionNotFound):
        await catalog.version(SMALL, 2)


async def test_what_was_forked_is_kept(catalog: Catalog, store: DirectoryBlobStore) -> None:
    await forked(catalog, 1)
    await retention.sweep(store, SMALL, oldest=3)
    version = await catalog.version(SMALL, 1)
    assert b"".join([chunk async for chunk in catalog.weights(version, chunk_size=7)]) == WEIGHTS[1]
