"""A task is rolled back once for each request, whoever dies, and nothing that was acknowledged vanishes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from disco.aggregator.v1 import aggregator_service_pb2 as messages

from blobstore import ledger, names, records
from learning.federated import State
from learning.policy import Policy
from learning.refusals import (
    InvalidId,
    MalformedMessage,
    RoundStale,
    StoredDataDamaged,
    StoreUnavailable,
    TaskNotFound,
    VersionNotFound,
    WrongScheme,
)
from learning.task import Scheme
from roundstore.redis_store import RedisRoundStore
from tests.services.aggregator.room import BASE, TASK, Member, Room, exact_mean, octets, opened, weights_of
from tests.services.aggregator.test_history import prove
from tests.services.aggregator.troubled_store import TroubledStore, fail, lose_answer

POLICY = Policy(min_participants=2, quorum_share=None, quorum_count=2, deadline_s=600, staleness_weights=(4, 2, 1))


async def play(member: Member, number: int) -> None:
    """One round with two contributions."""
    for who, seed in (("a", 0), ("b", 1)):
        await member.submit(who, weights_of(10 * number + seed), round=number)
    await member.reaches(number + 1)


async def roll_back(member: Member, version: int, request_id: str = "r1", task_id: str = TASK) -> Any:
    return await member.stub.RollBack(messages.RollBackRequest(task_id=task_id, version=version, request_id=request_id))


async def check_chain(room: Room, newest: int) -> None:
    assert await records.newest_version(room.blobs, TASK) == newest
    for number in range(1, newest + 1):
        before = await records.read_entry_bytes(room.blobs, TASK, number - 1)
        entry = await records.read_ledger_entry(room.blobs, TASK, number)
        assert entry.previous == ledger.digest_of_entry(before)
        assert entry == ledger.with_root(entry)


async def test_the_new_version_has_the_weights_of_the_old_one_and_rounds_go_on_from_it(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.members(2) as (first, second):
        for number in range(3):
            await play(first, number)
        _, old = await first.version(1)
        answer = await roll_back(second, 1)
        assert (answer.version.number, answer.version.rule, answer.version.restored_version) == (4, "restore", 1)
        assert (answer.round.number, answer.round.contributions) == (4, 0)
        assert await first.version() == (4, old)
        await play(first, 4)
        mean = exact_mean(old, [(weights_of(40), 4), (weights_of(41), 4)])
        assert await first.version() == (5, mean)
        await check_chain(room, 5)


async def test_what_was_acknowledged_in_the_open_round_stays_in_the_ledger(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    # What should happen: the receipt is proved as ever, against the root of the version that restores another one.
    # What should not happen: a version that is the weights of this one participant.
    async with opened(store, tmp_path, POLICY) as room, room.member() as member:
        await play(member, 0)
        receipt = await member.submit("lonely", weights_of(77), round=1)
        await roll_back(member, 0)
        proof = await prove(member, round=1, sha256=receipt.sha256)
        assert (proof.version, proof.receipt) == (2, receipt)
        entry = await records.read_ledger_entry(room.blobs, TASK, 2)
        assert [line.participant_id for line in entry.contributions] == ["lonely"]
        assert (entry.rule, entry.restores, entry.total_weight) == ("restore", 0, 4)
        assert proof.root.hex() == entry.merkle_root
        assert await member.version() == (2, octets(BASE))
        assert await member.submit("lonely", weights_of(77), round=1) == receipt  # sent again


async def test_what_started_before_the_rollback_is_stale(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member() as member:
        await play(member, 0)
        await roll_back(member, 0)
        for base in (0, 1):
            with pytest.raises(RoundStale):
                await member.submit("c", weights_of(5), round=base)
        assert (await member.submit("c", weights_of(5), round=2)).weight == 4


async def test_a_repeated_request_gets_the_same_version(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.members(2) as (first, second):
        await play(first, 0)
        answers = await asyncio.gather(*(roll_back(member, 0) for member in [first, second] * 4))
        assert {answer.version.number for answer in answers} == {2}
        await play(first, 2)
        assert (await roll_back(second, 0)).version.number == 2
        with pytest.raises(MalformedMessage):
            await roll_back(second, 1)
        assert (await roll_back(second, 0, "r2")).version.number == 4
        assert [(await roll_back(second, 0, "")).version.number for _ in range(2)] == [5, 6]
        await check_chain(room, 6)


async def test_rollbacks_at_once_each_make_a_version_of_their_own(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.members(2) as (first, second):
        await play(first, 0)
        answers = await asyncio.gather(
            *(roll_back(member, index % 2, f"r{index}") for index, member in enumerate([first, second] * 3))
        )
        assert sorted(answer.version.number for answer in answers) == [2, 3, 4, 5, 6, 7]
        for index, answer in enumerate(answers):
            assert answer.version.restored_version == index % 2
        await check_chain(room, 7)


async def test_contributions_and_rollbacks_at_once_lose_no_receipt(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.members(2) as (first, second):

        async def contribute(who: int) -> Any:
            while True:
                number = (await first.round()).number
                try:
                    return await [first, second][who % 2].submit(f"p{who}", weights_of(who), round=number)
                except RoundStale:
                    continue

        receipts, _ = await asyncio.gather(
            asyncio.gather(*(contribute(who) for who in range(21))),
            asyncio.gather(*(roll_back(second, 0, f"r{index}") for index in range(3))),
        )
        await roll_back(first, 0, "last")  # closes what is still open
        for receipt in receipts:
            proof = await prove(
                first, round=receipt.round, sha256=receipt.sha256, participant_id=receipt.participant_id
            )
            assert proof.receipt == receipt
        await check_chain(room, await records.newest_version(room.blobs, TASK))


@pytest.mark.parametrize("method", ["start_restoring", "read_closing", "finish_closing"])
@pytest.mark.parametrize("trouble", [fail, lose_answer])
async def test_another_replica_finishes_what_the_first_could_not(
    store: RedisRoundStore, tmp_path: Path, method: str, trouble: Any
) -> None:
    troubled = TroubledStore(store)
    async with opened(store, tmp_path, POLICY) as room, room.member() as healthy:
        await play(healthy, 0)
        receipt = await healthy.submit("lonely", weights_of(77), round=1)
        async with room.member(troubled, attending=False) as doomed:
            troubled.trouble(method, trouble)
            with pytest.raises(StoreUnavailable):
                await roll_back(doomed, 0)
        repeated = asyncio.create_task(roll_back(healthy, 0))
        await asyncio.sleep(0)
        room.clock.ahead += 30  # the lease of the first one ends
        assert (await repeated).version.number == 2
        assert await healthy.version() == (2, octets(BASE))
        assert (await prove(healthy, round=1, sha256=receipt.sha256)).receipt == receipt
        await check_chain(room, 2)


async def test_a_replica_that_closes_late_writes_what_was_asked_for_though_nobody_repeats(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    troubled = TroubledStore(store)
    async with opened(store, tmp_path, POLICY) as room:
        async with room.member(troubled, attending=False) as doomed:
            troubled.trouble("read_closing", fail)
            with pytest.raises(StoreUnavailable):
                await roll_back(doomed, 0)
        status = await room.status()
        assert (status.state, status.contributions) == (State.AGGREGATING, 0)
        assert status.restoring is not None
        room.clock.ahead += 30
        async with room.member() as other:
            await other.reaches(1)
            assert await other.version() == (1, octets(BASE))
        assert (await records.read_ledger_entry(room.blobs, TASK, 1)).request_id == "r1"


async def test_what_cannot_be_restored_is_refused_and_the_round_goes_on(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member() as member:
        await play(member, 0)
        before = await room.status()
        with pytest.raises(VersionNotFound):
            await roll_back(member, 2)
        entry = await records.read_ledger_entry(room.blobs, TASK, 1)
        await room.blobs.write(names.weights_of_version(TASK, 1, entry.digest), [b"damaged"])
        with pytest.raises(StoredDataDamaged):
            await roll_back(member, 1)
        with pytest.raises(TaskNotFound):
            await roll_back(member, 0, task_id="nope")
        with pytest.raises(InvalidId):
            await roll_back(member, 0, "a b")
        assert await room.status() == before


async def test_a_decentralized_task_has_nothing_to_roll_back(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member() as member:
        await room.add_task(Policy(), scheme=Scheme.DECENTRALIZED, task_id="peers")
        with pytest.raises(WrongScheme):
            await roll_back(member, 0, task_id="peers")
