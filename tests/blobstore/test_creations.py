"""Who creates a task and who deletes what an earlier attempt left never do it at once, whatever comes in between."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import pytest

from blobstore import creations, names, records
from blobstore.creations import Creation
from blobstore.records import Model, WeightSpec
from blobstore.store import BlobExists, BlobStore
from learning.ids import TaskId
from learning.refusals import StoreUnavailable
from tests.blobstore.tasks import write_task
from tests.services.task_service.tasks import task
from tests.simulation.memory_blobs import MemoryBlobStore

SMALL = TaskId("small")
MODEL = Model("tfjs", "{}", (WeightSpec("w", (6,)),))
WEIGHTS = bytes(24)
LEFT = [names.model(SMALL, "ab"), names.weights(SMALL, "cd")]


async def with_left(*more: str) -> MemoryBlobStore:
    store = MemoryBlobStore()
    for name in (*LEFT, *more):
        await store.write(name, [b"x"])
    return store


async def test_a_creation_is_seen_until_it_ends() -> None:
    store = MemoryBlobStore()
    first = await creations.begin(store, SMALL, size=24)
    second = await creations.begin(store, TaskId("other"), size=0)
    assert sorted(await creations.under_way(store), key=lambda each: each.size) == [second, first]
    assert first == Creation(SMALL, first.creation_id, 24)
    await creations.end(store, first)
    await creations.end(store, first)
    assert await creations.under_way(store) == [second]


async def test_what_a_creation_left_is_cleared() -> None:
    store = await with_left(names.weights(TaskId("other"), "ef"))
    assert await creations.list_unfinished(store) == ["other", "small"]
    assert await creations.clear(store, SMALL) == 2
    assert await store.list("") == [names.weights(TaskId("other"), "ef")]


async def test_what_somebody_is_creating_is_cleared_by_nobody_but_himself_and_only_alone() -> None:
    store = await with_left()
    own = await creations.begin(store, SMALL, size=1)
    assert await creations.clear(store, SMALL) == 0
    other = await creations.begin(store, SMALL, size=1)
    assert await creations.clear(store, SMALL, own=own) == 0
    await creations.end(store, other)
    assert await creations.clear(store, SMALL, own=own) == 2
    assert await store.list("") == [own.name]


@pytest.mark.parametrize(
    "name",
    [
        names.task_record(SMALL),
        names.ledger_entry(SMALL, 1),
        names.weights_of_version(SMALL, 1, "cd"),
        names.task_update(SMALL, 2),
        names.pin(SMALL, 1),
        names.policy(SMALL, 1),
    ],
)
async def test_what_is_or_was_a_task_is_never_cleared(name: str) -> None:
    store = await with_left(name)
    assert await creations.clear(store, SMALL) == 0
    assert await store.list("") == sorted([*LEFT, name])
    assert await creations.list_unfinished(store) == ([] if name == names.task_record(SMALL) else ["small"])


async def test_a_creation_that_ends_between_two_looks_keeps_what_it_wrote() -> None:
    # What should happen: its mark is there at the first look, or its record at the second one.
    class Ending(MemoryBlobStore):
        ended = False

        async def list(self, prefix: str) -> list[str]:
            found = await super().list(prefix)
            if not prefix.startswith(names.CLEARINGS) and not self.ended:
                self.ended = True
                await write_task(self, task(), MODEL, WEIGHTS, request_id="", now=1.0)
                await creations.end(self, creation)
            return found

    store = Ending()
    store.ended = True
    creation = await creations.begin(store, SMALL, size=24)
    await store.write(names.weights(SMALL, "66687aad"), [b"is being written"])
    store.ended = False
    assert await creations.clear(store, SMALL) == 0
    assert len(await store.list(names.all_weights(SMALL))) == 2


async def test_a_creation_waits_until_what_was_left_is_cleared() -> None:
    store = await with_left()
    at_work, may_go = asyncio.Event(), asyncio.Event()
    delete = store.delete

    async def slow(name: str) -> None:
        if name in LEFT:
            at_work.set()
            await may_go.wait()
        await delete(name)

    store.delete = slow  # type: ignore[method-assign]
    clearing = asyncio.create_task(creations.clear(store, SMALL))
    await at_work.wait()
    beginning = asyncio.create_task(creations.begin(store, SMALL, size=24))
    while not await creations.under_way(store):
        await asyncio.sleep(0)
    assert not beginning.done()
    may_go.set()
    assert await clearing == 2
    creation = await beginning
    assert await store.list("") == [creation.name]


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_creation_that_cannot_begin_leaves_no_mark(cancelled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creations, "FIRST_WAIT_S", 600.0 if cancelled else 0.0)
    store = MemoryBlobStore()
    await store.write(names.clearing(SMALL, "ab"), [b""])
    beginning = asyncio.create_task(creations.begin(store, SMALL, size=24))
    if cancelled:
        while not await creations.under_way(store):
            await asyncio.sleep(0)
        beginning.cancel()
    with pytest.raises(asyncio.CancelledError if cancelled else StoreUnavailable):
        await beginning
    assert await store.list("") == [names.clearing(SMALL, "ab")]


@pytest.mark.parametrize("seed", range(200))
async def test_whatever_comes_in_between_a_task_that_is_there_has_its_weights(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What should happen: creators of the same bytes, creators who fail and sweepers come in between each other
    # everywhere; whoever is told that the task is there can read it.
    monkeypatch.setattr(creations, "FIRST_WAIT_S", 0.0)
    chance = random.Random(seed)

    async def pause() -> None:
        for _ in range(chance.choice([0, 0, 1, 3, 20])):
            await asyncio.sleep(0)

    store = MemoryBlobStore(pause=pause)
    await store.write(names.weights(SMALL, "cd"), [b"left"])

    async def create(*, fails: bool) -> None:
        await pause()
        try:
            creation = await creations.begin(store, SMALL, size=24)
        except StoreUnavailable:
            return
        if fails:
            async with store.staged() as staged:
                await staged.append(WEIGHTS)
                await staged.publish(names.weights(SMALL, staged.digest))
            await creations.clear(store, SMALL, own=creation)
        else:
            with contextlib.suppress(BlobExists):
                await write_task(store, task(), MODEL, WEIGHTS, request_id="", now=1.0)
        await creations.end(store, creation)

    async def clear() -> None:
        await pause()
        await creations.clear(store, SMALL)

    work: list[Callable[[], Awaitable[None]]] = [lambda: create(fails=False), lambda: create(fails=True), clear, clear]
    chance.shuffle(work)
    await asyncio.gather(*(do() for do in work), *([create(fails=False)] if seed % 2 else []))
    if await records.has_record(store, SMALL):
        assert await weights_of(store) == WEIGHTS
    assert [*await store.list(names.CREATIONS), *await store.list(names.CLEARINGS)] == []


async def weights_of(store: BlobStore) -> bytes:
    record = await records.read_task(store, SMALL)
    await records.read_model(store, record)
    return await store.read(names.weights(SMALL, record.initial_digest))
