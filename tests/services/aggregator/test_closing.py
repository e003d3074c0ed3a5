"""Rounds whose closer dies, is slow, or finds something other than it expects."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from blobstore import ledger, names, records
from blobstore.directory import DirectoryBlobStore
from learning.federated import State
from learning.ids import ReplicaId
from learning.policy import Policy
from learning.refusals import RoundStale, StoredDataDamaged, VersionNotFound
from roundstore.redis_store import RedisRoundStore
from services.aggregator.exact_sums import PartialSum
from services.aggregator.open_sums import OpenSum
from services.aggregator.sum_plan import SumPlan
from tests.services.aggregator.room import BASE, SPECS, TASK, Member, Room, exact_mean, octets, opened, weights_of
from tests.services.aggregator.troubled_store import Held, Method, TroubledStore
from tests.waiting import eventually

CONTRIBUTIONS = {who: (weights_of(seed), 1) for seed, who in enumerate(("a", "b", "c"))}
EXPECTED = exact_mean(octets(BASE), CONTRIBUTIONS.values())
POLICY = Policy(min_participants=1, quorum_share=None, quorum_count=3, deadline_s=600, staleness_weights=(1,))


class Died(BaseException):
    """The process ends here."""


async def die(call: Method) -> Any:
    raise Died


async def die_after(call: Method) -> Any:
    await call()
    raise Died


@asynccontextmanager
async def a_due_round(
    store: RedisRoundStore, path: Path, *, collected_by_closer: bool = False
) -> AsyncIterator[tuple[Room, Member, TroubledStore]]:
    """A round that is due, and a replica that will not close it by itself.

    It must read what another one has collected, where it is not said that it has that in memory.
    """
    troubled = TroubledStore(store)
    async with (
        opened(store, path, POLICY) as room,
        room.member(attending=False) as collector,
        room.member(troubled, attending=False) as closer,
    ):
        for who, (weights, _) in CONTRIBUTIONS.items():
            await (closer if collected_by_closer else collector).submit(who, weights)
        yield room, closer, troubled


async def ledger_bytes(room: Room) -> bytes:
    return await room.blobs.read(names.ledger_entry(TASK, 1))


async def check_chain(room: Room) -> None:
    """Every entry states the digest of the one before it, and a root over what it counts."""
    for number in range(1, await records.newest_version(room.blobs, TASK) + 1):
        before = await records.read_entry_bytes(room.blobs, TASK, number - 1)
        entry = await records.read_ledger_entry(room.blobs, TASK, number)
        assert entry.previous == ledger.digest_of_entry(before)
        assert entry.base_digest == records.decode_entry(before, name="").digest
        assert entry == ledger.with_root(entry)
        assert (entry.task_id, entry.rule) == (TASK, "mean")


async def check_closed_by(room: Room, member: Member) -> None:
    await check_chain(room)
    await member.reaches(1)
    assert await member.version() == (1, EXPECTED)
    entry = await records.read_ledger_entry(room.blobs, TASK, 1)
    assert sorted(line.participant_id for line in entry.contributions) == ["a", "b", "c"]
    status = await room.status()
    assert (status.number, status.last_contributions, status.contributions_ever) == (1, 3, 3)


@pytest.mark.parametrize(
    ("method", "trouble"),
    [
        ("start_closing", die_after),
        ("finish_closing", die),
        ("finish_closing", die_after),
    ],
)
async def test_another_replica_closes_when_the_closer_died(
    store: RedisRoundStore, tmp_path: Path, method: str, trouble: Any
) -> None:
    async with a_due_round(store, tmp_path) as (room, closer, troubled):
        troubled.trouble(method, trouble)
        with pytest.raises(Died):
            await closer.replica.closing.close(await room.status())
        written = await ledger_bytes(room) if method == "finish_closing" else None
        room.clock.ahead += 11
        async with room.member() as other:
            await check_closed_by(room, other)
        assert written in (None, await ledger_bytes(room))


async def test_closer_that_died_between_weights_and_ledger_entry_left_nothing_that_hinders(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_due_round(store, tmp_path) as (room, closer, _):
        write = room.blobs.write

        async def die_at_the_entry(name: str, parts: Any, **options: Any) -> None:
            if name.startswith(names.versions(TASK)):
                raise Died
            await write(name, parts, **options)

        with monkeypatch.context() as dying:
            dying.setattr(room.blobs, "write", die_at_the_entry)
            with pytest.raises(Died):
                await closer.replica.closing.close(await room.status())
        assert await records.newest_version(room.blobs, TASK) == 0
        room.clock.ahead += 11
        async with room.member() as other:
            await check_closed_by(room, other)


async def test_nobody_else_closes_while_the_lease_lasts(store: RedisRoundStore, tmp_path: Path) -> None:
    async with a_due_round(store, tmp_path) as (room, closer, troubled):
        held = Held()
        troubled.trouble("finish_closing", held)
        closing = asyncio.create_task(closer.replica.closing.close(await room.status()))
        await held.reached.wait()
        other = room.new_replica()
        assert not await other.closing.close(await room.status())
        held.release.set()
        assert await closing
        await check_closed_by(room, closer)


async def test_a_version_computed_again_by_another_replica_has_the_same_bytes(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with a_due_round(store, tmp_path) as (room, closer, troubled):
        troubled.trouble("finish_closing", die)
        with pytest.raises(Died):
            await closer.replica.closing.close(await room.status())
        first = await ledger_bytes(room)
        entry = await records.read_ledger_entry(room.blobs, TASK, 1)
        await room.blobs.delete(names.ledger_entry(TASK, 1))
        await room.blobs.delete(names.weights_of_version(TASK, 1, entry.digest))
        room.clock.ahead += 11
        async with room.member() as other:
            await check_closed_by(room, other)
        assert await ledger_bytes(room) == first


async def test_two_closers_at_once_write_the_same_version_and_one_moves_the_round(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_due_round(store, tmp_path) as (room, _, _):
        slow, fast = room.new_replica(), room.new_replica()
        both_read = asyncio.Barrier(2)
        written: list[bytes] = []
        write = room.blobs.write

        async def write_together(name: str, parts: Any, **options: Any) -> None:
            if name == names.ledger_entry(TASK, 1):
                written.append(b"".join(parts))
                await both_read.wait()
            await write(name, parts, **options)

        monkeypatch.setattr(room.blobs, "write", write_together)
        closing = [asyncio.create_task(slow.closing.close(await room.status()))]
        while not written:
            await asyncio.sleep(0.001)
        room.clock.ahead += 11
        closing.append(asyncio.create_task(fast.closing.close(await room.status())))
        assert sorted(await asyncio.gather(*closing)) == [False, True]
        assert written[0] == written[1]
        async with room.member() as member:
            await check_closed_by(room, member)


async def test_closer_that_was_overtaken_while_it_read_the_sums_stops(store: RedisRoundStore, tmp_path: Path) -> None:
    async with a_due_round(store, tmp_path) as (room, closer, _):
        held = Held()
        reading = room.blobs.read_chunks

        def read_chunks_when_released(name: str, *, chunk_size: int) -> AsyncIterator[bytes]:
            async def chunks() -> AsyncIterator[bytes]:
                room.blobs.read_chunks = reading  # type: ignore[method-assign]
                held.reached.set()
                await held.release.wait()
                async for chunk in reading(name, chunk_size=chunk_size):
                    yield chunk

            return chunks()

        room.blobs.read_chunks = read_chunks_when_released  # type: ignore[method-assign]
        closing = asyncio.create_task(closer.replica.closing.close(await room.status()))
        await held.reached.wait()
        room.clock.ahead += 11
        async with room.member() as other:
            await check_closed_by(room, other)

            async def sums_are_gone() -> bool:
                return not await room.blobs.list(names.sums(TASK))

            await eventually(sums_are_gone)
            held.release.set()
            assert not await closing
            await check_closed_by(room, other)


async def test_closer_goes_on_by_itself_where_the_store_was_away_for_a_moment(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with a_due_round(store, tmp_path) as (room, closer, troubled):
        troubled.trouble("finish_closing", die)
        with pytest.raises(Died):
            await closer.replica.closing.close(await room.status())
        status = await room.status()
        assert closer.replica.closing.is_ours(status)
        assert await closer.replica.closing.close(status)  # its lease lasts, and nobody has to wait for its end
        await check_closed_by(room, closer)


async def test_damaged_sum_makes_no_version_and_the_round_waits_for_a_copy(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with a_due_round(store, tmp_path) as (room, closer, _):
        (pointed,) = [name for name in await room.blobs.list(names.sums(TASK)) if name.endswith(".0")]
        copy = await room.blobs.read(pointed)
        await room.blobs.write(pointed, [copy[:-1] + bytes([copy[-1] ^ 1])])
        status = await room.status()
        with pytest.raises(StoredDataDamaged) as damaged:
            await closer.replica.closing.close(status)
        assert damaged.value.variables == {"name": pointed}
        status = await room.status()
        assert (status.number, status.state) == (0, State.AGGREGATING)
        with pytest.raises(VersionNotFound):
            await records.read_ledger_entry(room.blobs, TASK, 1)
        await room.blobs.write(pointed, [copy])
        assert await closer.replica.closing.close(status)
        await check_closed_by(room, closer)


async def test_missing_sum_and_sum_of_another_plan_are_damage(store: RedisRoundStore, tmp_path: Path) -> None:
    async with a_due_round(store, tmp_path) as (room, closer, _):
        (pointed,) = [name for name in await room.blobs.list(names.sums(TASK)) if name.endswith(".0")]
        copy = await room.blobs.read(pointed)
        for other in (b"", copy[:50], b"x" * len(copy)):
            await room.blobs.write(pointed, [other])
            with pytest.raises(StoredDataDamaged):
                await closer.replica.closing.close(await room.status())
        await room.blobs.delete(pointed)
        with pytest.raises(StoredDataDamaged):
            await closer.replica.closing.close(await room.status())


async def test_store_that_forgot_a_closed_round_is_moved_on_and_the_version_stays(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with a_due_round(store, tmp_path) as (room, closer, _):
        assert await closer.replica.closing.close(await room.status())
        before = await ledger_bytes(room)
        await store._redis.flushall()
        await store.open_round(TASK, POLICY, number=0, now=1.0)  # as it was before the round was closed
        async with room.member() as member:
            await member.reaches(1)
            assert (await member.submit("d", weights_of(9), round=1)).round == 1
        assert await ledger_bytes(room) == before


async def test_emptied_store_opens_the_round_at_the_newest_version(store: RedisRoundStore, tmp_path: Path) -> None:
    async with a_due_round(store, tmp_path) as (room, closer, _):
        assert await closer.replica.closing.close(await room.status())
        await store._redis.flushall()
        assert (await closer.round()).number == 1
        await store._redis.flushall()
        assert (await closer.join("a")).participants == 1
        assert (await closer.round()).number == 1


async def test_uncommitted_group_of_a_dead_replica_is_not_in_the_version(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    troubled, held = TroubledStore(store), Held()
    async with opened(store, tmp_path, POLICY) as room, room.member() as survivor:
        async with room.member(troubled) as dying:
            await dying.submit("a", CONTRIBUTIONS["a"][0])
            troubled.trouble("commit_group", held)
            lost = asyncio.create_task(dying.submit("b", CONTRIBUTIONS["b"][0]))
            await held.reached.wait()  # its sum is written, and nobody will ever commit it
            lost.cancel()
        await survivor.submit("b", CONTRIBUTIONS["b"][0])
        await survivor.submit("c", CONTRIBUTIONS["c"][0])
        await check_closed_by(room, survivor)


async def test_lease_is_longer_for_larger_models(store: RedisRoundStore, tmp_path: Path) -> None:
    async with a_due_round(store, tmp_path) as (room, closer, troubled):
        troubled.trouble("finish_closing", die)
        now = room.clock()
        with pytest.raises(Died):
            await closer.replica.closing.close(await room.status())
        status = await room.status()
        assert status.closer == ReplicaId(closer.replica.replica_id)
        assert status.closer_until is not None
        assert now + 10 <= status.closer_until <= room.clock() + 10.1


async def test_a_closer_holds_no_second_sum_beside_the_one_that_it_collected(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    held: list[int] = []

    async def look(call: Method) -> Any:
        gc.collect()
        held.append(sum(isinstance(thing, OpenSum | PartialSum) for thing in gc.get_objects()))
        return await call()

    gc.collect()
    async with a_due_round(store, tmp_path, collected_by_closer=True) as (room, closer, troubled):
        troubled.trouble("finish_closing", look)
        assert await closer.replica.closing.close(await room.status())
    assert held == [0]


async def test_entry_whose_weights_are_lost_is_written_over_though_the_next_weights_are_the_same(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with a_due_round(store, tmp_path) as (room, closer, troubled):
        troubled.trouble("finish_closing", die)
        with pytest.raises(Died):
            await closer.replica.closing.close(await room.status())
        entry = await records.read_ledger_entry(room.blobs, TASK, 1)
        stale = replace(entry, create_time=entry.create_time - 1)  # of a round that a loss of power took back since
        await room.blobs.write(names.ledger_entry(TASK, 1), [records.encode(stale)])
        await room.blobs.delete(names.weights_of_version(TASK, 1, entry.digest))
        assert await closer.replica.closing.close(await room.status())
        assert await records.read_ledger_entry(room.blobs, TASK, 1) == entry
        await check_closed_by(room, closer)


async def test_sum_that_stays_lost_costs_what_is_in_it_and_the_round_collects_again(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with a_due_round(store, tmp_path) as (room, closer, _):
        for name in await room.blobs.list(names.sums(TASK)):
            await room.blobs.delete(name)
        with pytest.raises(StoredDataDamaged):
            await closer.replica.closing.close(await room.status())
        room.clock.ahead += 6
        assert not await closer.replica.closing.close(await room.status())
        status = await room.status()
        assert (status.number, status.state, status.contributions, status.lost) == (0, State.COLLECTING, 0, 3)
        for who, (weights, samples) in CONTRIBUTIONS.items():
            receipt = await closer.submit(who, weights, sample_count=samples)
            assert receipt.position >= 3
        assert await closer.replica.closing.close(await room.status())
        entry = await records.read_ledger_entry(room.blobs, TASK, 1)
        assert [line.position for line in entry.contributions] == [3, 4, 5]
        assert [line.position for line in entry.lost] == [0, 1, 2]
        assert entry.contributions_ever == 3


async def test_closer_that_has_the_sum_in_memory_does_not_read_it(store: RedisRoundStore, tmp_path: Path) -> None:
    async with a_due_round(store, tmp_path, collected_by_closer=True) as (room, closer, _):
        for blob in await room.blobs.list(names.sums(TASK)):
            await room.blobs.delete(blob)
        assert await closer.replica.closing.close(await room.status())
        await check_closed_by(room, closer)


async def test_closer_adds_the_sums_of_others_to_its_own(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member(attending=False) as other:
        await other.submit("a", CONTRIBUTIONS["a"][0])
        async with room.member(attending=False) as closer:
            await closer.submit("b", CONTRIBUTIONS["b"][0])
            await closer.submit("c", CONTRIBUTIONS["c"][0])
            assert await closer.replica.closing.close(await room.status())
            await check_closed_by(room, closer)


async def test_sum_that_is_in_use_when_the_round_closes_is_read_and_what_comes_late_is_not_in_it(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judging, reading, folded = Held(), Held(), asyncio.Event()
    check, fold, read_chunks = OpenSum.check, OpenSum.fold, DirectoryBlobStore.read_chunks

    async def check_when_released(self: OpenSum, member: Any) -> None:
        await check(self, member)
        judging.reached.set()
        await judging.release.wait()

    async def fold_and_say_so(self: OpenSum, group: Any) -> None:
        await fold(self, group)
        folded.set()

    async def read_when_released(self: DirectoryBlobStore, name: str, *, chunk_size: int) -> AsyncIterator[bytes]:
        reading.reached.set()
        await reading.release.wait()
        async for chunk in read_chunks(self, name, chunk_size=chunk_size):
            yield chunk

    async with (
        opened(store, tmp_path, POLICY) as room,
        room.member(attending=False) as closer,
        room.member(attending=False) as other,
        asyncio.timeout(20),
    ):
        await closer.submit("a", CONTRIBUTIONS["a"][0])
        await closer.submit("b", CONTRIBUTIONS["b"][0])
        with monkeypatch.context() as held:
            held.setattr(OpenSum, "check", check_when_released)
            late = asyncio.create_task(closer.submit("late", weights_of(7)))
            await judging.reached.wait()
        await other.submit("c", CONTRIBUTIONS["c"][0])
        with monkeypatch.context() as held:
            held.setattr(DirectoryBlobStore, "read_chunks", read_when_released)
            closing = asyncio.create_task(closer.replica.closing.close(await room.status()))
            await reading.reached.wait()
            held.setattr(OpenSum, "fold", fold_and_say_so)
            judging.release.set()
            await folded.wait()
        reading.release.set()
        assert await closing
        await check_closed_by(room, closer)
        with pytest.raises(RoundStale):
            await late


async def test_sum_that_holds_more_than_its_pointer_is_not_taken(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room:
        status = await store.open_round(TASK, POLICY, number=0, now=1.0)
        plan = SumPlan.for_base(SPECS, octets(BASE), status.weight_cap)
        current = OpenSum(room.blobs, status, plan, name=ReplicaId("r"))
        first, second = (Weighed(weights_of(seed)) for seed in (1, 2))
        await current.fold([first])
        pointer = await current.write()
        assert current.take(pointer) is None  # nobody has committed it yet
        current.committed()
        await current.fold([second])
        assert current.take(pointer) is None
        await current.take_out([second])
        taken = current.take(pointer)
        assert taken is not None
        assert bytes(taken.mean()) == exact_mean(octets(BASE), [(first.weights, 1)])
        assert current.take(replace(pointer, digest="another")) is None


@dataclass(frozen=True)
class Weighed:
    """A member of a group."""

    weights: bytes
    weight: int = 1
    digest: str = ""
    base_round: int = 0
