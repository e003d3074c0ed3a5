"""The newest version to go on from, where a loss of power tore or took what was written last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from blobstore import ledger, names, records
from blobstore.directory import DirectoryBlobStore
from blobstore.records import LedgerEntry, LedgerLine
from blobstore.store import BlobExists
from blobstore.whole import Heads, is_whole, newest_whole
from learning.policy import Policy
from tests.blobstore.tasks import write_task
from tests.services.aggregator.room import BASE, TASK, a_task, octets, weights_of


async def with_versions(path: Path, count: int) -> DirectoryBlobStore:
    store = DirectoryBlobStore(path)
    task, model = a_task(Policy())
    await write_task(store, task, model, octets(BASE), request_id="", now=1.0)
    for number in range(1, count + 1):
        await write_version(store, number)
    return store


async def write_version(
    store: DirectoryBlobStore, number: int, *, seed: int | None = None, replace: bool = False
) -> None:
    weights = weights_of(number if seed is None else seed)
    before = await records.read_entry_bytes(store, TASK, number - 1)
    entry = LedgerEntry(
        version=number,
        digest=hashlib.sha256(weights).hexdigest(),
        base_digest=records.decode_entry(before, name="").digest,
        create_time=100.0 + number,
        task_id=TASK,
        previous=ledger.digest_of_entry(before),
    )
    await records.write_version(store, TASK, weights, entry, replace=replace)


async def weights_name(store: DirectoryBlobStore, number: int) -> str:
    entry = await records.read_ledger_entry(store, TASK, number)
    return names.weights_of_version(TASK, number, entry.digest)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def zeros(data: bytes) -> bytes:
    return bytes(len(data))


def nothing(data: bytes) -> bytes:
    return b""


TEARS = [cut, zeros, nothing]


async def test_the_head_of_a_whole_history_is_the_newest(tmp_path: Path) -> None:
    async with await with_versions(tmp_path, 3) as store:
        assert await newest_whole(store, TASK, 3) == 3
        assert await Heads(store).newest(TASK) == 3
        assert [await is_whole(store, TASK, number) for number in range(5)] == [True, True, True, True, False]


@pytest.mark.parametrize("tear", TEARS)
async def test_a_torn_entry_at_the_head_is_no_version(tmp_path: Path, tear: Callable[[bytes], bytes]) -> None:
    async with await with_versions(tmp_path, 3) as store:
        name = names.ledger_entry(TASK, 3)
        await store.write(name, [tear(await store.read(name))])
        heads = Heads(store)
        assert await heads.newest(TASK) == 2
        assert not await is_whole(store, TASK, 3)
        # It is written anew, though versions never change otherwise.
        with pytest.raises(BlobExists):
            await write_version(store, 3)
        await write_version(store, 3, replace=True)
        assert await heads.newest(TASK) == 3


@pytest.mark.parametrize("tear", TEARS)
async def test_a_version_with_torn_weights_is_none(tmp_path: Path, tear: Callable[[bytes], bytes]) -> None:
    async with await with_versions(tmp_path, 2) as store:
        name = await weights_name(store, 2)
        await store.write(name, [tear(await store.read(name))])
        assert await Heads(store).newest(TASK) == 1
        await store.delete(name)
        assert await Heads(store).newest(TASK) == 1


async def test_versions_behind_a_hole_hang_in_the_air_until_it_is_filled_with_the_same(tmp_path: Path) -> None:
    async with await with_versions(tmp_path, 4) as store:
        copy = await store.read(names.ledger_entry(TASK, 2))
        await store.delete(names.ledger_entry(TASK, 2))
        assert await Heads(store).newest(TASK) == 1
        await store.write(names.ledger_entry(TASK, 2), [copy])
        assert await Heads(store).newest(TASK) == 4
        await store.delete(names.ledger_entry(TASK, 2))
        await write_version(store, 2, seed=99)
        assert await Heads(store).newest(TASK) == 2


async def test_only_what_is_young_beside_the_head_is_doubted(tmp_path: Path) -> None:
    async with await with_versions(tmp_path, 30) as store:
        await store.delete(names.ledger_entry(TASK, 3))
        assert await newest_whole(store, TASK, 30) == 30


async def test_a_version_whose_state_is_lost_is_whole_only_where_another_follows(tmp_path: Path) -> None:
    async with await with_versions(tmp_path, 0) as store:
        state = names.rule_state(TASK, 1, "5d" * 32)
        before = await records.read_entry_bytes(store, TASK, 0)
        weights = weights_of(1)
        entry = LedgerEntry(
            version=1,
            digest=hashlib.sha256(weights).hexdigest(),
            base_digest="",
            create_time=1.0,
            contributions=(LedgerLine("a", "5d" * 32, 0, 1, 0),),
            previous=ledger.digest_of_entry(before),
            state_digest=hashlib.sha256(b"momentum").hexdigest(),
        )
        await records.write_version(store, TASK, weights, entry)
        assert not await is_whole(store, TASK, 1)
        assert await newest_whole(store, TASK, 1) == 0
        await write_version(store, 2)
        assert await is_whole(store, TASK, 1)
        await store.delete(names.ledger_entry(TASK, 2))
        await store.write(state.replace("5d" * 32, entry.state_digest), [b"momentum"])
        assert await newest_whole(store, TASK, 1) == 1
