"""The store in Redis passes the suite, and stands what only a Redis can suffer: restarts, flushes, evictions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import pytest_asyncio
import redis.asyncio

from learning.federated import Contribution, RoundMoved
from learning.ids import ParticipantId
from learning.policy import Policy
from learning.refusals import StoredDataDamaged, StoreUnavailable
from roundstore import redis_keys
from roundstore.memory_store import MemoryRoundStore
from roundstore.redis_settings import connect
from roundstore.redis_store import METADATA_ROUNDS, RedisRoundStore
from roundstore.store import NORMS_KEPT, REFUSALS_KEPT, Hint, RoundStore
from tests.redis_process import RedisProcess
from tests.roundstore.store_contract import (
    ALICE,
    BOB,
    CAROL,
    EPOCH,
    OTHER_REPLICA,
    OTHER_TASK,
    POLICY,
    REPLICA,
    TASK,
    RoundStoreContract,
    a_contribution,
    a_pointer,
    a_refusal,
    an_admission,
    closing,
    contributed,
    opened,
)


@pytest.fixture
def fresh_epochs() -> list[str]:
    """The last one is given to whatever needs one."""
    return [EPOCH]


@pytest.fixture
def store(redis_client: redis.asyncio.Redis, fresh_epochs: list[str]) -> RedisRoundStore:
    return RedisRoundStore(redis_client, new_epoch=lambda: fresh_epochs[-1])


@pytest_asyncio.fixture
async def own_store(own_redis: RedisProcess) -> AsyncIterator[RedisRoundStore]:
    """A store in a Redis that the test may kill."""
    async with connect(own_redis.url) as client:
        yield RedisRoundStore(client, new_epoch=lambda: EPOCH)


class TestRedisRoundStore(RoundStoreContract):
    """The suite, with the fixture `store` of this file."""


async def test_every_round_has_another_epoch(redis_client: redis.asyncio.Redis) -> None:
    store = RedisRoundStore(redis_client)
    epochs = set()
    for _ in range(3):
        epochs.add((await opened(store)).epoch)
        await redis_client.flushall()
    assert len(epochs) == 3


# Restarts


async def test_a_redis_killed_after_every_step_keeps_everything(
    own_redis: RedisProcess, own_store: RedisRoundStore
) -> None:
    # What should happen:
    # 1. after each change Redis is killed with SIGKILL and started again on its files
    # 2. the same client and the same store go on, and the round is as it was acknowledged
    # What should not happen:
    # - anything is lost; a script is missed for good
    memory = MemoryRoundStore(new_epoch=lambda: EPOCH)

    async def play(store: RoundStore) -> AsyncIterator[object]:
        yield await opened(store)
        yield await store.join(TASK, [ALICE, BOB], lease_until=1763686800.1234567, now=1.0)
        yield await contributed(store, ALICE, CAROL)
        yield await store.leave(TASK, ALICE, now=3.0)
        yield await store.put_metadata(TASK, ALICE, round=7, key="loss", value="0.5")
        yield await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=30.0, now=20.0)
        yield await store.read_closing(TASK, epoch=EPOCH, number=7)
        yield await store.finish_closing(TASK, epoch=EPOCH, number=7)
        yield await store.set_policy(TASK, Policy(), now=21.0)
        yield await store.find_admission(TASK, CAROL, rounds=[7])
        yield await store.get_metadata(TASK, round=7, key="loss")
        yield await store.list_open_tasks()

    expected = play(memory)
    async for answer in play(own_store):
        assert answer == await anext(expected)
        own_redis.kill()
        own_redis.start()
        assert await own_store.read_status(TASK) == await memory.read_status(TASK)


async def test_without_redis_every_call_fails_as_unavailable(
    own_redis: RedisProcess, own_store: RedisRoundStore
) -> None:
    await opened(own_store)
    own_redis.kill()
    calls = [
        own_store.open_round(TASK, POLICY, number=7, now=1.0),
        own_store.read_status(TASK),
        own_store.list_open_tasks(),
        own_store.join(TASK, [ALICE], lease_until=10.0, now=1.0),
        own_store.find_admission(TASK, ALICE, rounds=[7]),
        own_store.commit_group(
            TASK, epoch=EPOCH, number=7, pointer=a_pointer(), group=[a_contribution(ALICE)], now=1.0
        ),
        own_store.put_metadata(TASK, ALICE, round=7, key="loss", value="0.5"),
        own_store.get_metadata(TASK, round=7, key="loss"),
        anext(aiter(own_store.watch())),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable):
            await call
    own_redis.start()
    status = await own_store.read_status(TASK)
    assert status is not None
    assert status.contributions == 0


# Flushes and evictions


async def test_a_flushed_redis_takes_no_contribution_for_the_round_it_lost(
    redis_client: redis.asyncio.Redis, store: RedisRoundStore
) -> None:
    await contributed(store, ALICE)
    await redis_client.flushall()
    again = RedisRoundStore(redis_client, new_epoch=lambda: "second")
    for reopen in (False, True):
        if reopen:
            assert (await opened(again)).epoch == "second"
        with pytest.raises(RoundMoved):
            await store.commit_group(
                TASK, epoch=EPOCH, number=7, pointer=a_pointer(2, 8), group=[a_contribution(BOB)], now=3.0
            )
    assert await again.find_admission(TASK, ALICE, rounds=[7]) == []


async def test_a_round_that_was_evicted_alone_is_opened_without_its_leftovers(
    redis_client: redis.asyncio.Redis, store: RedisRoundStore
) -> None:
    await contributed(store, ALICE, BOB)
    await store.join(TASK, [CAROL], lease_until=10.0, now=1.0)
    await redis_client.delete(redis_keys.of_task(TASK).round)
    assert await store.list_open_tasks() == []
    status = await opened(store)
    assert (status.participants, status.contributions, status.absent_contributors) == (0, 0, 0)
    assert await store.find_admission(TASK, ALICE, rounds=[7]) == []


@pytest.mark.parametrize("field", ["admissions", "sums"])
async def test_a_round_that_lost_a_key_is_not_closed_with_what_is_left(
    redis_client: redis.asyncio.Redis, store: RedisRoundStore, field: str
) -> None:
    await closing(store)
    await redis_client.delete(getattr(redis_keys.of_task(TASK), field))
    with pytest.raises(StoredDataDamaged) as damage:
        await store.read_closing(TASK, epoch=EPOCH, number=7)
    assert damage.value.variables == {"name": "Round 7 of titanic"}
    status = await store.finish_closing(TASK, epoch=EPOCH, number=7)
    assert status.number == 8


async def test_a_pointer_that_says_less_than_was_admitted_is_noticed(store: RedisRoundStore) -> None:
    await contributed(store, ALICE)
    wrong = a_pointer(1, 4)
    await store.commit_group(TASK, epoch=EPOCH, number=7, pointer=wrong, group=[a_contribution(BOB)], now=3.0)
    with pytest.raises(StoredDataDamaged):
        await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=30.0, now=20.0)
    with pytest.raises(StoredDataDamaged):  # the lease is given: whoever has it finds the same
        await store.read_closing(TASK, epoch=EPOCH, number=7)


async def test_an_empty_round_can_be_finished(store: RedisRoundStore) -> None:
    # The store does not judge whether a round is due; its caller does.
    await opened(store)
    await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=30.0, now=20.0)
    assert (await store.read_closing(TASK, epoch=EPOCH, number=7)).admissions == ()
    assert (await store.finish_closing(TASK, epoch=EPOCH, number=7)).number == 8


async def test_a_task_listed_without_round_is_not_open(
    redis_client: redis.asyncio.Redis, store: RedisRoundStore
) -> None:
    # As where a process died between listing a task and opening its round.
    await redis_client.sadd(redis_keys.OPEN_TASKS, OTHER_TASK)
    assert await store.list_open_tasks() == []


# What is kept for how long


async def test_a_closed_round_is_kept_for_two_hours_and_the_open_one_for_good(
    redis_client: redis.asyncio.Redis, store: RedisRoundStore
) -> None:
    await closing(store)
    await store.join(TASK, [ALICE], lease_until=10.0, now=1.0)
    await store.finish_closing(TASK, epoch=EPOCH, number=7)
    await store.commit_group(TASK, epoch=EPOCH, number=8, pointer=a_pointer(), group=[a_contribution(BOB)], now=21.0)
    lives = {key.decode(): await redis_client.ttl(key) for key in await redis_client.keys()}
    closed = {name: ttl for name, ttl in lives.items() if ttl != -1}
    assert set(lives) - set(closed) == {
        "disco:open_tasks",
        "disco:{titanic}:round",
        "disco:{titanic}:leases",
        "disco:{titanic}:admissions",
        "disco:{titanic}:absent",
        "disco:{titanic}:sums",
    }
    assert set(closed) == {"disco:{titanic}:admissions:7", "disco:{titanic}:sums:7"}
    assert all(7190 <= ttl <= 7200 for ttl in closed.values())


async def test_a_round_that_is_open_again_is_kept_for_good(
    redis_client: redis.asyncio.Redis, store: RedisRoundStore
) -> None:
    await closing(store)
    await store.finish_closing(TASK, epoch=EPOCH, number=7)
    await store.lose_version(TASK, epoch=EPOCH, number=8)
    lives = {key.decode(): await redis_client.ttl(key) for key in await redis_client.keys()}
    assert {"disco:{titanic}:admissions", "disco:{titanic}:sums"} <= set(lives)
    assert set(lives.values()) == {-1}


@pytest.mark.parametrize("lost_with_its_version", [False, True])
async def test_what_an_open_round_lost_is_kept_for_good_though_the_round_was_closed_before(
    redis_client: redis.asyncio.Redis, store: RedisRoundStore, lost_with_its_version: bool
) -> None:
    status = await closing(store)
    await store.lose_contributions(
        TASK, epoch=EPOCH, number=7, revision=status.revision, participant_ids=[ALICE], sums={REPLICA: a_pointer()}
    )
    assert await redis_client.ttl(redis_keys.lost(TASK, 7)) == -1
    await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=90.0, now=60.0)
    await store.finish_closing(TASK, epoch=EPOCH, number=7)
    assert 0 < await redis_client.ttl(redis_keys.lost(TASK, 7)) <= redis_keys.CLOSED_ROUND_TTL_S
    status = await store.lose_version(TASK, epoch=EPOCH, number=8)
    if lost_with_its_version:
        await store.lose_version(TASK, epoch=EPOCH, number=7)
    else:
        await store.lose_contributions(
            TASK, epoch=EPOCH, number=7, revision=status.revision, participant_ids=[BOB], sums={REPLICA: None}
        )
    assert await redis_client.ttl(redis_keys.lost(TASK, 7)) == -1


async def test_a_round_that_alone_was_lost_takes_nothing_of_the_old_one_over(
    redis_client: redis.asyncio.Redis, store: RedisRoundStore
) -> None:
    await contributed(store, ALICE, BOB)
    await store.join(TASK, [ALICE], lease_until=99.0, now=3.0)
    await redis_client.delete(redis_keys.of_task(TASK).round)
    status = await opened(store)
    assert (status.contributions, status.participants, status.absent_contributors) == (0, 0, 0)
    assert set(await redis_client.keys()) == {b"disco:open_tasks", b"disco:{titanic}:round"}


async def test_texts_are_kept_for_a_day_and_those_of_a_thousand_rounds(
    redis_client: redis.asyncio.Redis, store: RedisRoundStore
) -> None:
    for number in range(METADATA_ROUNDS + 2):
        await store.put_metadata(TASK, ALICE, round=number, key="loss", value=str(number))
    assert await store.get_metadata(TASK, round=2, key="loss") == (2, {ALICE: "2"})
    assert await store.get_metadata(TASK, round=1, key="loss") == (0, {})
    for name in (redis_keys.metadata(TASK, "loss", 5), redis_keys.metadata_rounds(TASK, "loss")):
        assert 24 * 3600 < await redis_client.ttl(name) <= 25 * 3600


async def test_texts_that_have_ended_are_passed_over(redis_client: redis.asyncio.Redis, store: RedisRoundStore) -> None:
    for number in (1, 2):
        await store.put_metadata(TASK, ALICE, round=number, key="loss", value=str(number))
    await redis_client.delete(redis_keys.metadata(TASK, "loss", 2))
    assert await store.get_metadata(TASK, round=3, key="loss") == (1, {ALICE: "1"})


# Watching


async def test_a_watcher_hears_of_every_open_task_after_redis_came_back(
    own_redis: RedisProcess, own_store: RedisRoundStore
) -> None:
    await opened(own_store)
    await own_store.open_round(OTHER_TASK, POLICY, number=0, now=1.0)
    async with aclosing(own_store.watch()) as hints, asyncio.timeout(20):
        assert [await anext(hints), await anext(hints)] == [Hint(OTHER_TASK, None), Hint(TASK, None)]
        own_redis.kill()
        next_hint = asyncio.ensure_future(anext(hints))
        for _ in range(5):  # long enough for the watcher to find that nobody is there
            with pytest.raises(StoreUnavailable):
                await own_store.read_status(TASK)
        own_redis.start()
        assert [await next_hint, await anext(hints)] == [Hint(OTHER_TASK, None), Hint(TASK, None)]
        await own_store.join(TASK, [ALICE], lease_until=10.0, now=1.0)
        assert (await anext(hints)).task_id == TASK


async def test_a_watcher_without_open_tasks_reconnects_too(own_redis: RedisProcess, own_store: RedisRoundStore) -> None:
    async with aclosing(own_store.watch()) as hints, asyncio.timeout(20):
        first = asyncio.ensure_future(anext(hints))
        async with connect(own_redis.url) as client:
            while not (await client.pubsub_numsub(redis_keys.CHANNEL))[0][1]:
                await asyncio.sleep(0.01)
        own_redis.kill()
        own_redis.start()
        await opened(own_store)
        assert (await first).task_id == TASK


async def test_a_watcher_whose_connection_alone_is_cut_hears_of_every_open_task(
    redis_client: redis.asyncio.Redis, store: RedisRoundStore
) -> None:
    await opened(store)
    async with aclosing(store.watch()) as hints, asyncio.timeout(20):
        assert (await anext(hints)).task_id == TASK
        next_hint = asyncio.ensure_future(anext(hints))
        await redis_client.client_kill_filter(_type="pubsub")
        assert await next_hint == Hint(TASK, None)


# Scripts and processes side by side


async def test_two_stores_on_one_redis_see_one_round(redis_url: str, store: RedisRoundStore) -> None:
    async with connect(redis_url) as client:
        other = RedisRoundStore(client)
        await contributed(store, ALICE)
        assert await other.find_admission(TASK, ALICE, rounds=[7]) == [an_admission(ALICE)]
        await other.commit_group(
            TASK,
            epoch=EPOCH,
            number=7,
            pointer=a_pointer(1, 4, OTHER_REPLICA),
            group=[a_contribution(BOB)],
            now=3.0,
        )
        assert await store.read_status(TASK) == await other.read_status(TASK)


async def test_a_thousand_members_are_one_group(store: RedisRoundStore) -> None:
    await store.open_round(TASK, Policy(), number=7, now=1.0)
    group = [a_contribution(f"participant-{index}", weight=2) for index in range(1000)]
    admissions, status = await store.commit_group(
        TASK, epoch=EPOCH, number=7, pointer=a_pointer(1000, 2000), group=group, now=2.0
    )
    assert [admission.position for admission in admissions] == list(range(1000))
    assert (status.contributions, status.total_weight, status.absent_contributors) == (1000, 2000, 1000)
    status = await store.join(TASK, [member.participant_id for member in group], lease_until=10.0, now=3.0)
    assert (status.participants, status.absent_contributors) == (1000, 0)
    assert (await store.expire_leases(TASK, now=10.0)).absent_contributors == 1000


async def test_no_flood_of_contributions_or_refusals_fills_redis(
    redis_client: redis.asyncio.Redis, store: RedisRoundStore
) -> None:
    await store.open_round(TASK, Policy(), number=7, now=1.0)
    for start in range(0, 2 * NORMS_KEPT, 64):
        group = [Contribution(ParticipantId(f"p{start + n}"), "x", 7, 1, norm=1.0) for n in range(64)]
        pointer = a_pointer(start + 64, start + 64)
        await store.commit_group(TASK, epoch=EPOCH, number=7, pointer=pointer, group=group, now=2.0)
        await store.note_refusals(TASK, [a_refusal(n) for n in range(64)])
    assert await redis_client.llen(redis_keys.norms(TASK)) == NORMS_KEPT
    assert await redis_client.xlen(redis_keys.refusals(TASK)) == REFUSALS_KEPT
    assert 7 * 24 * 3600 < await redis_client.ttl(redis_keys.refusals(TASK)) <= redis_keys.REFUSALS_TTL_S
