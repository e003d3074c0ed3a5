"""Groups whose commit goes wrong: nothing that was acknowledged is lost, nothing is counted twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from blobstore import names, records
from blobstore.store import Buffer
from learning.policy import Policy
from learning.refusals import (
    DuplicateContribution,
    RoundStale,
    StoreUnavailable,
    WeightCapReached,
    WeightsNotFinite,
    WeightsOutOfBound,
)
from roundstore.redis_store import RedisRoundStore
from roundstore.store import Hint
from tests.services.aggregator.room import BASE, TASK, Member, Room, exact_mean, octets, opened, weights_of
from tests.services.aggregator.troubled_store import Held, Late, Trouble, TroubledStore, fail, lose_answer, send_twice
from tests.waiting import eventually

A, B, C, D = (weights_of(seed) for seed in range(4))


def policy(count: int, *, staleness_weights: tuple[int, ...] = (1,), max_total_weight: int = 2**20) -> Policy:
    return Policy(
        min_participants=1,
        quorum_share=None,
        quorum_count=count,
        deadline_s=600,
        staleness_weights=staleness_weights,
        max_total_weight=max_total_weight,
    )


async def check_version(room: Room, member: Member, number: int, contributions: dict[str, tuple[bytes, int]]) -> None:
    """The version is the exact mean of these contributions, and the ledger names each of them once."""
    await member.reaches(number)
    entry = await records.read_ledger_entry(room.blobs, TASK, number)
    counted = sorted((line.participant_id, line.weight) for line in entry.contributions)
    assert counted == sorted((who, weight) for who, (_, weight) in contributions.items())
    base = (await member.version(number - 1))[1]
    assert await member.version(number) == (number, exact_mean(base, contributions.values(), entry.weight_cap))


@pytest.mark.parametrize("trouble", [fail, lose_answer])
async def test_caller_who_repeats_after_a_failed_commit_is_counted_once(
    store: RedisRoundStore, tmp_path: Path, trouble: Trouble
) -> None:
    troubled = TroubledStore(store)
    async with opened(store, tmp_path, policy(3)) as room, room.member(troubled) as member:
        await member.submit("a", A)
        troubled.trouble("commit_group", trouble)
        with pytest.raises(StoreUnavailable):
            await member.submit("b", B)
        receipt = await member.submit("b", B)
        assert (receipt.position, receipt.weight) == (1, 1)
        assert await member.submit("b", B) == receipt
        await member.submit("c", C)
        await check_version(room, member, 1, {"a": (A, 1), "b": (B, 1), "c": (C, 1)})


async def test_commit_that_was_sent_twice_is_counted_once(store: RedisRoundStore, tmp_path: Path) -> None:
    troubled = TroubledStore(store)
    async with opened(store, tmp_path, policy(4)) as room, room.member(troubled) as member:
        await member.submit("a", A)
        troubled.trouble("commit_group", send_twice)
        receipt = await member.submit("b", B)
        assert receipt.position == 1
        await member.submit("c", C)  # would be written over the slot that the pointer names
        await member.submit("d", D)
        await check_version(room, member, 1, {"a": (A, 1), "b": (B, 1), "c": (C, 1), "d": (D, 1)})


async def test_commit_that_takes_effect_late_is_counted_once(store: RedisRoundStore, tmp_path: Path) -> None:
    troubled, late = TroubledStore(store), Late()
    async with opened(store, tmp_path, policy(4)) as room, room.member(troubled) as member:
        await member.submit("a", A)
        troubled.trouble("commit_group", late)
        with pytest.raises(StoreUnavailable):
            await member.submit("b", B)
        await member.submit("c", C)
        await late.arrive()
        assert (await member.submit("b", B)).position == 2
        await member.submit("d", D)
        await check_version(room, member, 1, {"a": (A, 1), "b": (B, 1), "c": (C, 1), "d": (D, 1)})


async def test_caller_who_repeats_after_the_round_was_closed_gets_the_receipt_of_that_round(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    troubled = TroubledStore(store)
    async with (
        opened(store, tmp_path, policy(2, staleness_weights=(2, 1))) as room,
        room.member(troubled) as first,
        room.member() as second,
    ):
        troubled.trouble("commit_group", lose_answer)
        with pytest.raises(StoreUnavailable):
            await first.submit("a", A)
        await second.submit("b", B)
        await check_version(room, second, 1, {"a": (A, 2), "b": (B, 2)})
        for member in (first, second):
            receipt = await member.submit("a", A)
            assert (receipt.round, receipt.position, receipt.weight) == (0, 0, 2)


async def test_commit_sent_twice_around_the_end_of_a_round_is_not_counted_again_as_late(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    troubled, held = TroubledStore(store), Held(after=True)
    async with (
        opened(store, tmp_path, policy(2, staleness_weights=(2, 1))) as room,
        room.member(troubled) as first,
        room.member() as second,
    ):
        troubled.trouble("commit_group", held)
        submitting = asyncio.create_task(first.submit("a", A))
        await held.reached.wait()
        await second.submit("b", B)
        await second.reaches(1)
        held.release.set()
        receipt = await submitting
        assert (receipt.round, receipt.weight) == (0, 2)
        assert (await room.status()).contributions == 0
        await check_version(room, second, 1, {"a": (A, 2), "b": (B, 2)})


async def test_sum_that_cannot_be_written_admits_nobody_and_is_not_used_again(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(store, tmp_path, policy(3)) as room, room.member() as member:
        await member.submit("a", A)
        with monkeypatch.context() as broken:
            late: list[tuple[str, list[Buffer]]] = []
            write_slot = room.blobs.write_slot

            async def write_later(name: str, parts: list[Buffer]) -> None:
                late.append((name, [bytes(part) for part in parts]))
                await write_slot(name, [b"half of it"])
                raise StoreUnavailable

            broken.setattr(room.blobs, "write_slot", write_later)
            with pytest.raises(StoreUnavailable):
                await member.submit("b", B)
        assert len(await room.blobs.list(names.sums(TASK))) == 1  # what was committed, and no litter
        await member.submit("c", C)
        for name, parts in late:
            await room.blobs.write_slot(name, parts)  # object storage may be as late as that
        await member.submit("d", D)
        await check_version(room, member, 1, {"a": (A, 1), "c": (C, 1), "d": (D, 1)})


async def test_same_contribution_on_two_replicas_is_admitted_once_and_the_rest_of_the_group_is_kept(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    troubled, first_held, held = TroubledStore(store), Held(), Held()
    async with (
        opened(store, tmp_path, policy(4)) as room,
        room.member(troubled) as first,
        room.member() as second,
    ):
        troubled.trouble("commit_group", first_held, held)
        alone = asyncio.create_task(first.submit("a", A))
        await first_held.reached.wait()
        group = [asyncio.create_task(first.submit(who, weights)) for who, weights in (("b", B), ("c", C))]
        group.append(asyncio.create_task(first.submit("d", D)))
        while len(first.replica._intake._committers[TASK]._waiting) < 3:
            await asyncio.sleep(0.001)
        first_held.release.set()
        await alone
        await held.reached.wait()  # b, c and d are one group
        receipt = await second.submit("b", B)
        with pytest.raises(DuplicateContribution):
            await second.submit("b", C)
        held.release.set()
        assert await group[0] == receipt
        await asyncio.gather(*group)
        await check_version(room, second, 1, {"a": (A, 1), "b": (B, 1), "c": (C, 1), "d": (D, 1)})


async def test_other_weights_of_the_same_participant_at_the_same_moment_are_refused_by_name(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    troubled, held = TroubledStore(store), Held()
    async with (
        opened(store, tmp_path, policy(2)) as room,
        room.member(troubled) as first,
        room.member() as second,
    ):
        troubled.trouble("commit_group", held)
        refused = asyncio.create_task(first.submit("a", A))
        await held.reached.wait()
        await second.submit("a", B)
        held.release.set()
        with pytest.raises(DuplicateContribution) as refusal:
            await refused
        assert refusal.value.variables == {"participant_id": "a", "round": "0"}
        await first.submit("c", C)
        await check_version(room, second, 1, {"a": (B, 1), "c": (C, 1)})


async def test_same_participant_twice_in_one_queue_is_admitted_once(store: RedisRoundStore, tmp_path: Path) -> None:
    troubled, held = TroubledStore(store), Held()
    async with opened(store, tmp_path, policy(4)) as room, room.member(troubled) as member:
        troubled.trouble("commit_group", held)
        first = asyncio.create_task(member.submit("a", A))
        await held.reached.wait()
        others = [asyncio.create_task(member.submit("b", weights)) for weights in (B, B, C)]
        while len(member.replica._intake._committers[TASK]._waiting) < 3:
            await asyncio.sleep(0.001)
        held.release.set()
        await first
        answers = await asyncio.gather(*others, return_exceptions=True)
        assert answers[0] == answers[1]
        assert isinstance(answers[2], DuplicateContribution)
        await member.submit("c", C)
        assert len(await room.blobs.list(names.sums(TASK))) == 2  # the two slots of one sum
        await member.submit("d", D)
        await check_version(room, member, 1, {"a": (A, 1), "b": (B, 1), "c": (C, 1), "d": (D, 1)})


async def test_contribution_sent_twice_is_not_refused_for_the_room_that_it_takes_itself(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    # What should happen: the group ends before "c", for which there is no room; the second "b" is judged after the
    # group is committed, finds no room either, and gets the receipt of the first.
    # What should not happen: "b" is counted and told that it is not.
    troubled, held = TroubledStore(store), Held()
    everybody = Policy(min_participants=1, deadline_s=600, staleness_weights=(1,), max_total_weight=9)
    async with opened(store, tmp_path, everybody) as room, room.member(troubled) as member:
        for who in ("a", "b", "c"):
            await member.join(who)
        troubled.trouble("commit_group", held)
        first = asyncio.create_task(member.submit("a", A, sample_count=3))
        await held.reached.wait()
        sent = []
        for who, weights, samples in (("b", B, 6), ("c", C, 3), ("b", B, 6)):
            sent.append(asyncio.create_task(member.submit(who, weights, sample_count=samples)))
            while len(member.replica._intake._committers[TASK]._waiting) < len(sent):
                await asyncio.sleep(0.001)
        held.release.set()
        await first
        counted, refused, repeated = await asyncio.gather(*sent, return_exceptions=True)
        assert isinstance(refused, WeightCapReached)
        assert counted == repeated
        await member.leave("c")
        await check_version(room, member, 1, {"a": (A, 3), "b": (B, 6)})


@pytest.mark.parametrize(("staleness_weights", "weight"), [((5, 2), 2), ((5,), None)])
async def test_contribution_that_the_round_moved_away_from_is_judged_anew(
    store: RedisRoundStore, tmp_path: Path, staleness_weights: tuple[int, ...], weight: int | None
) -> None:
    troubled, held = TroubledStore(store), Held()
    async with (
        opened(store, tmp_path, policy(2, staleness_weights=staleness_weights)) as room,
        room.member(troubled) as first,
        room.member() as second,
    ):
        troubled.trouble("commit_group", held)
        late = asyncio.create_task(first.submit("late", C))
        await held.reached.wait()
        await asyncio.gather(second.submit("a", A), second.submit("b", B))
        await second.reaches(1)
        held.release.set()
        if weight is None:
            with pytest.raises(RoundStale) as refusal:
                await late
            assert refusal.value.variables == {"round": "0", "current_round": "1"}
            return
        receipt = await late
        assert (receipt.round, receipt.weight, receipt.position) == (1, weight, 0)
        await second.submit("d", D, round=1)
        await check_version(room, second, 2, {"late": (C, weight), "d": (D, 5)})


async def test_contribution_that_the_round_moved_away_from_is_checked_against_the_new_bound(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    huge = octets([2000.0, *BASE[1:]])  # fits twice 2^10, not once
    small = octets([value / 4 for value in BASE])
    troubled, held = TroubledStore(store), Held()
    async with (
        opened(store, tmp_path, policy(1, staleness_weights=(1, 1))) as room,
        room.member(troubled) as first,
        room.member() as second,
    ):
        troubled.trouble("commit_group", held)
        late = asyncio.create_task(first.submit("late", huge))
        await held.reached.wait()
        await second.submit("a", small)
        await second.reaches(1)
        held.release.set()
        with pytest.raises(WeightsOutOfBound) as refusal:
            await late
        assert refusal.value.variables == {"tensor": "dense/kernel", "bound": "1024"}
        assert (await room.status()).contributions == 0


async def test_contributions_wait_while_a_round_is_being_closed(store: RedisRoundStore, tmp_path: Path) -> None:
    troubled, held = TroubledStore(store), Held()
    async with opened(store, tmp_path, policy(2, staleness_weights=(2, 1))) as room, room.member(troubled) as member:
        troubled.trouble("finish_closing", held)
        await asyncio.gather(member.submit("a", A), member.submit("b", B))
        await held.reached.wait()
        # Version 1 can be read a moment before round 1 is open.
        waiting = [asyncio.create_task(member.submit(who, C, round=number)) for number, who in enumerate(("c", "d"))]
        while not (committers := member.replica._intake._committers) or len(committers[TASK]._waiting) < 2:
            await asyncio.sleep(0.001)
        held.release.set()
        receipts = await asyncio.gather(*waiting)
        assert [(receipt.round, receipt.weight) for receipt in receipts] == [(1, 1), (1, 2)]
        await check_version(room, member, 2, {"c": (C, 1), "d": (C, 2)})


async def test_contribution_that_will_be_late_when_the_round_is_closed_is_refused_at_once(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    troubled, held = TroubledStore(store), Held()
    async with opened(store, tmp_path, policy(1)) as room, room.member(troubled) as member:
        troubled.trouble("finish_closing", held)
        await member.submit("a", A)
        await held.reached.wait()
        with pytest.raises(RoundStale):
            await member.submit("b", B)
        held.release.set()


async def test_contribution_that_is_not_admitted_in_time_is_sent_back_and_not_counted(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    troubled, held = TroubledStore(store), Held()
    async with (
        opened(store, tmp_path, policy(1, staleness_weights=(2, 1))) as room,
        room.member(troubled, answer_s=0.05) as member,
    ):
        troubled.trouble("finish_closing", held)
        await member.submit("a", A)
        await held.reached.wait()
        with pytest.raises(StoreUnavailable):
            await member.submit("b", B)
        held.release.set()
        await member.reaches(1)
        assert (await room.status()).contributions == 0


async def test_weights_that_must_not_touch_a_sum_do_not(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, policy(2)) as room, room.member() as member:
        await member.submit("a", A)
        with pytest.raises(WeightsNotFinite) as refusal:
            await member.submit("b", octets([*BASE[:-1], float("nan")]))
        assert refusal.value.variables == {"tensor": "small/kernel"}
        with pytest.raises(WeightsOutOfBound, match="dense/bias"):
            await member.submit("b", octets([*BASE[:6], 1025.0, *BASE[7:]]))
        await member.submit("b", B)
        await check_version(room, member, 1, {"a": (A, 1), "b": (B, 1)})


@pytest.mark.parametrize("claimed", [10**12, 2**64 - 1])
async def test_sample_count_that_nobody_has_counts_as_the_cap_and_the_round_closes(
    store: RedisRoundStore, tmp_path: Path, claimed: int
) -> None:
    async with opened(store, tmp_path, policy(3)) as room, room.member() as member:
        assert (await member.submit("liar", A, sample_count=claimed)).weight == 2**20 // 3
        assert (await member.submit("liar", A, sample_count=claimed)).weight == 2**20 // 3
        await member.submit("b", B, sample_count=60)
        await member.submit("c", C)
        await check_version(room, member, 1, {"liar": (A, 2**20 // 3), "b": (B, 60), "c": (C, 1)})


async def test_task_says_how_many_samples_count(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, replace(policy(2), max_samples=500)) as room, room.member() as member:
        assert (await member.submit("a", A, sample_count=501)).weight == 500
        assert (await member.submit("b", B, sample_count=499)).weight == 499


async def test_nobody_is_refused_by_a_round_that_is_over(store: RedisRoundStore, tmp_path: Path) -> None:
    async with (
        opened(store, tmp_path, policy(2, staleness_weights=(1, 1), max_total_weight=10)) as room,
        room.member(attending=False) as first,  # hears of nothing
        room.member() as second,
    ):
        await first.submit("a", A, sample_count=8)
        await second.submit("b", B)
        await second.reaches(1)
        late = await first.submit("late", C, sample_count=5)  # would not have fitted into round 0
        assert (late.round, late.weight) == (1, 5)
        assert (await first.submit("d", D, round=1, sample_count=5)).position == 1
        await check_version(room, second, 2, {"late": (C, 5), "d": (D, 5)})


async def test_contribution_from_a_round_that_this_replica_has_not_heard_of_is_admitted(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with (
        opened(store, tmp_path, policy(2)) as room,
        room.member(attending=False) as first,  # hears of nothing
        room.member() as second,
    ):
        await first.submit("a", A)
        await second.submit("b", B)
        await second.reaches(1)
        assert (await first.submit("c", C, round=1)).round == 1


async def test_weight_beyond_the_cap_is_refused_and_lighter_ones_still_fit(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    everybody = Policy(min_participants=1, deadline_s=600, staleness_weights=(1,), max_total_weight=10)
    async with opened(store, tmp_path, everybody) as room, room.members(2) as members:
        for who in ("a", "b"):
            await members[0].join(who)
        await members[0].submit("a", A, sample_count=8)
        for member in members:
            with pytest.raises(WeightCapReached) as refusal:
                await member.submit("b", B, sample_count=3)
            assert refusal.value.variables == {"cap": "10"}
        with pytest.raises(WeightCapReached):
            await members[0].submit("b", B, sample_count=2**63)
        await members[0].submit("b", B, sample_count=2)
        await check_version(room, members[0], 1, {"a": (A, 8), "b": (B, 2)})


async def test_a_round_that_this_replica_opened_itself_is_not_read_again_to_begin_its_sum(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    troubled = TroubledStore(store)
    async with opened(store, tmp_path, policy(1)) as room, room.member(troubled) as member:

        async def closed() -> bool:
            return (await room.status()).number == troubled.calls["finish_closing"] == troubled.calls["commit_group"]

        await member.submit("a", A)
        await eventually(closed)
        before = troubled.calls["read_status"]
        for number in (1, 2, 3):
            await member.submit("a", A, round=number)
            await eventually(closed)
        assert troubled.calls["read_status"] == before
        assert troubled.calls["commit_group"] == 4


async def test_contribution_to_a_round_that_collects_no_more_though_no_hint_said_so_waits_for_the_next(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What should happen: what was seen last is believed, the commit finds that it is not so, the round is waited for.
    # What should not happen: the same commit again and again; a refusal.
    class HardOfHearing(TroubledStore):
        """Hears of the first change, and of none after it."""

        async def watch(self) -> AsyncIterator[Hint]:
            async for hint in self._store.watch():
                yield hint
                if hint.seen_at is not None:
                    await asyncio.Event().wait()

    monkeypatch.setattr("services.aggregator.committer.LOOK_AGAIN_S", 0.01)
    deaf, troubled, held = HardOfHearing(store), TroubledStore(store), Held(after=True)
    async with (
        opened(store, tmp_path, policy(2, staleness_weights=(2, 1))) as room,
        room.member(deaf) as first,
        room.member(troubled) as second,
    ):
        await first.join("late")

        async def heard() -> bool:
            return first.replica.changes.newest(TASK) is not None

        await eventually(heard)
        await first.round()
        troubled.trouble("start_closing", held)
        await asyncio.gather(second.submit("a", A), second.submit("b", B))
        await held.reached.wait()
        late = asyncio.create_task(first.submit("late", C))

        async def was_refused_by_the_store() -> bool:
            return deaf.calls["commit_group"] == 1 and deaf.calls["read_status"] > 5

        await eventually(was_refused_by_the_store)
        held.release.set()
        receipt = await late
        assert (receipt.round, receipt.weight) == (1, 1)
        assert deaf.calls["commit_group"] == 2
