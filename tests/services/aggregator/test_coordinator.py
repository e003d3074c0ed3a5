"""When rounds close, and that they do though nobody calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from learning.federated import State
from learning.ids import TaskId
from learning.policy import Policy
from learning.refusals import StoreUnavailable
from roundstore.redis_settings import connect
from roundstore.redis_store import RedisRoundStore
from rpc.channel import retrying
from tests.redis_process import RedisProcess
from tests.services.aggregator.room import BASE, TASK, exact_mean, octets, opened, weights_of
from tests.services.aggregator.troubled_store import TroubledStore, fail
from tests.waiting import eventually

A, B, C = (weights_of(seed) for seed in range(3))
BASE_OCTETS = octets(BASE)
EVERYBODY = Policy(min_participants=2, quorum_share=1.0, deadline_s=600, staleness_weights=(1,))


async def test_round_closes_when_everybody_present_has_contributed(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, EVERYBODY) as room, room.members(2) as (first, second):
        for who in ("a", "b", "c"):
            await first.join(who)
        await first.submit("a", A)
        await second.submit("b", B)
        assert (await room.status()).number == 0
        await second.submit("c", C)
        await first.reaches(1)
        assert await second.version() == (1, exact_mean(BASE_OCTETS, [(A, 1), (B, 1), (C, 1)]))


async def test_round_closes_when_the_one_it_waited_for_leaves(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, EVERYBODY) as room, room.members(2) as (first, second):
        for who in ("a", "b", "c"):
            await first.join(who)
        await first.submit("a", A)
        await second.submit("b", B)
        await second.leave("c")
        await first.reaches(1)
        assert await first.version() == (1, exact_mean(BASE_OCTETS, [(A, 1), (B, 1)]))


async def test_round_closes_when_the_lease_of_the_one_it_waited_for_ends(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with opened(store, tmp_path, EVERYBODY) as room, room.member() as member:
        await member.join("c")
        room.clock.ahead += 20
        for who, weights in (("a", A), ("b", B)):
            await member.join(who)
            await member.submit(who, weights)
        assert (await room.status()).number == 0
        room.clock.ahead += 11
        await member.reaches(1)
        assert await member.version() == (1, exact_mean(BASE_OCTETS, [(A, 1), (B, 1)]))
        assert (await room.status()).participants == 2


async def test_round_closes_at_its_deadline_with_what_is_there(store: RedisRoundStore, tmp_path: Path) -> None:
    policy = Policy(min_participants=2, quorum_share=None, quorum_count=9, deadline_s=60, staleness_weights=(1,))
    async with opened(store, tmp_path, policy) as room, room.member() as member:
        await member.submit("a", A)
        room.clock.ahead += 61
        member.replica.changes.announce_due(TASK)
        # Below `min_participants` it keeps what it has, whatever the time.
        assert (await room.status()).state is State.COLLECTING
        await member.submit("b", B)
        await member.reaches(1)
        assert await member.version() == (1, exact_mean(BASE_OCTETS, [(A, 1), (B, 1)]))


async def test_deadline_is_kept_though_no_hint_comes(store: RedisRoundStore, tmp_path: Path) -> None:
    policy = Policy(min_participants=1, quorum_share=None, quorum_count=9, deadline_s=0.2, staleness_weights=(1,))
    async with opened(store, tmp_path, policy) as room, room.member() as member:
        await member.submit("a", A)
        await member.reaches(1)


async def test_round_is_closed_though_every_hint_of_it_is_lost(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(TroubledStore):
        """Nothing is heard of it."""

        async def watch(self) -> AsyncIterator[TaskId]:
            await asyncio.Event().wait()
            yield TASK

    monkeypatch.setattr("services.aggregator.coordinator.IDLE_S", 0.05)
    policy = Policy(min_participants=1, quorum_share=None, quorum_count=1, deadline_s=600, staleness_weights=(1,))
    async with opened(store, tmp_path, policy) as room, room.member(Deaf(store)) as member:
        await member.submit("a", A)

        async def closed() -> bool:
            return (await room.status()).number == 1

        await eventually(closed)


@pytest.mark.parametrize("aggregating", [False, True])
async def test_round_that_dead_replicas_left_is_closed_by_one_that_starts(
    store: RedisRoundStore, tmp_path: Path, aggregating: bool
) -> None:
    policy = Policy(min_participants=1, quorum_share=None, quorum_count=2, deadline_s=600, staleness_weights=(1,))
    async with opened(store, tmp_path, policy) as room:
        async with room.member(attending=False) as dead:
            await dead.submit("a", A)
            await dead.submit("b", B)
            status = await room.status()
            if aggregating:
                now = room.clock()
                await store.start_closing(
                    TASK, epoch=status.epoch, number=0, closer=dead.replica.replica_id, until=now + 0.3, now=now
                )
        async with room.member() as member:
            await member.reaches(1)
            assert await member.version() == (1, exact_mean(BASE_OCTETS, [(A, 1), (B, 1)]))


async def test_redis_may_die_and_come_back(own_redis: RedisProcess, tmp_path: Path) -> None:
    policy = Policy(min_participants=1, quorum_share=None, quorum_count=3, deadline_s=600, staleness_weights=(1,))
    async with connect(own_redis.url) as redis:
        store = RedisRoundStore(redis)
        async with opened(store, tmp_path, policy) as room, room.members(2) as (first, second):
            receipt = await first.submit("a", A)
            await second.submit("b", B)
            own_redis.kill()
            for call in (first.round(), first.submit("c", C), second.join("c")):
                with pytest.raises(StoreUnavailable):
                    await call
            repeated = asyncio.create_task(retrying(lambda: second.submit("c", C), seconds=20))
            await asyncio.to_thread(own_redis.start)
            await repeated
            await first.reaches(1)
            assert await first.version() == (1, exact_mean(BASE_OCTETS, [(A, 1), (B, 1), (C, 1)]))
            assert await first.submit("a", A) == receipt


async def test_closer_that_lost_the_store_for_a_moment_does_not_wait_for_its_own_lease(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    troubled = TroubledStore(store)
    policy = Policy(min_participants=1, quorum_share=None, quorum_count=1, deadline_s=600, staleness_weights=(1,))
    async with opened(store, tmp_path, policy) as room, room.member(troubled, closing_lease_s=3600.0) as member:
        troubled.trouble("finish_closing", fail, fail)
        troubled.trouble("read_closing", fail)
        await member.submit("a", A)
        await member.reaches(1)


async def test_sums_of_closed_rounds_are_let_go_of(store: RedisRoundStore, tmp_path: Path) -> None:
    policy = Policy(min_participants=1, quorum_share=None, quorum_count=2, deadline_s=600, staleness_weights=(1,))
    async with opened(store, tmp_path, policy) as room, room.members(2) as members:
        await members[0].submit("a", A)
        await members[1].submit("b", B)

        async def nothing_is_held() -> bool:
            return not any(member.replica._intake._committers for member in members)

        await eventually(nothing_is_held)
