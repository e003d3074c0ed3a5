"""Old weights go, whoever sweeps and whoever reads; what is referred to stays, and no entry ever goes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from blobstore import names, records, retention
from blobstore.directory import DirectoryBlobStore
from blobstore.records import LedgerEntry
from blobstore.store import BlobStore
from learning.ids import TaskId
from learning.refusals import StoredDataDamaged, VersionNotFound

TASK = TaskId("titanic")


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryBlobStore]:
    async with DirectoryBlobStore(tmp_path) as store:
        await store.write(names.weights(TASK, hashlib.sha256(b"0").hexdigest()), [b"0"])
        for number in range(1, 11):
            await publish(store, number, b"%d" % number)
        yield store


async def publish(store: BlobStore, number: int, weights: bytes) -> LedgerEntry:
    entry = LedgerEntry(number, hashlib.sha256(weights).hexdigest(), base_digest="", create_time=0.0)
    await records.write_version(store, TASK, weights, entry)
    return entry


async def kept(store: BlobStore) -> list[int]:
    found = []
    for number in range(1, 11):
        entry = await records.read_ledger_entry(store, TASK, number)
        try:
            assert await records.read_weights(store, TASK, entry) == b"%d" % number
        except VersionNotFound:
            continue
        found.append(number)
    return found


async def test_older_weights_go_and_every_entry_stays(store: BlobStore) -> None:
    assert await retention.sweep(store, TASK, oldest=8) == 7
    assert await kept(store) == [8, 9, 10]
    assert await store.read(names.weights(TASK, hashlib.sha256(b"0").hexdigest())) == b"0"
    assert await retention.sweep(store, TASK, oldest=8) == 0


async def test_a_pinned_version_stays(store: BlobStore) -> None:
    for number in (0, 3, 3):
        await retention.pin(store, TASK, number)
    await retention.sweep(store, TASK, oldest=9)
    assert await kept(store) == [3, 9, 10]
    await retention.pin(store, TASK, 3)  # again, though it is old by now


async def test_what_is_no_longer_kept_cannot_be_pinned(store: BlobStore) -> None:
    await retention.sweep(store, TASK, oldest=9)
    for _ in range(2):
        with pytest.raises(VersionNotFound) as refusal:
            await retention.pin(store, TASK, 3)
    assert refusal.value.variables == {"version": "3"}


async def test_weights_that_should_be_there_are_damage_and_not_age(store: BlobStore) -> None:
    await retention.sweep(store, TASK, oldest=8)
    entry = await records.read_ledger_entry(store, TASK, 9)
    await store.delete(names.weights_of_version(TASK, 9, entry.digest))
    with pytest.raises(StoredDataDamaged):
        await records.read_weights(store, TASK, entry)


async def test_a_version_that_is_like_an_old_one_keeps_its_weights(store: BlobStore) -> None:
    again = await publish(store, 11, b"1")
    await retention.sweep(store, TASK, oldest=9)
    assert await records.read_weights(store, TASK, again) == b"1"


async def test_the_bound_never_sinks(store: BlobStore) -> None:
    await retention.sweep(store, TASK, oldest=9)
    await retention.sweep(store, TASK, oldest=5)
    assert await records.oldest_kept(store, TASK) == 9


async def test_a_reader_in_the_middle_reads_on(tmp_path: Path) -> None:
    async with DirectoryBlobStore(tmp_path) as store:
        entry = await publish(store, 1, bytes(1 << 20))
        name, _ = await records.find_weights(store, TASK, entry)
        chunks = store.read_chunks(name, chunk_size=1000)
        read = len(await anext(chunks))
        assert await retention.sweep(store, TASK, oldest=2) == 1
        async for chunk in chunks:
            read += len(chunk)
    assert read == 1 << 20


@pytest.mark.parametrize("delay", range(8))
async def test_who_sweeps_and_who_pins_at_once_never_both_win(store: BlobStore, delay: int) -> None:
    # What should happen: the version is pinned and kept, or refused.
    # What should not happen: a pin that was granted, and weights that are gone.
    class Slow:
        """Lets the other one go first at every step."""

        def __init__(self, steps: int) -> None:
            self._steps = steps

        def __getattr__(self, name: str) -> Any:
            async def call(*arguments: Any, **options: Any) -> Any:
                for _ in range(self._steps):
                    await asyncio.sleep(0)
                return await getattr(store, name)(*arguments, **options)

            return call

    async def pinned() -> bool:
        try:
            await retention.pin(Slow(delay), TASK, 3)  # type: ignore[arg-type]
        except VersionNotFound:
            return False
        return True

    granted, _, _ = await asyncio.gather(
        pinned(),
        retention.sweep(Slow(3), TASK, oldest=9),  # type: ignore[arg-type]
        retention.sweep(Slow(4), TASK, oldest=8),  # type: ignore[arg-type]
    )
    if granted:
        assert 3 in await kept(store)
