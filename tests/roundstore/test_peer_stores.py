"""What every store of decentralized rounds promises: one suite, for the one in memory and the one in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace

import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learning.decentralized import (
    Connected,
    DecentralizedRound,
    Event,
    LeasesChecked,
    Left,
    MarkedReady,
    Seat,
    Stream,
    StreamBroken,
    seat_of,
    step,
)
from learning.ids import PeerId, ReplicaId, TaskId
from learning.policy import Policy
from learning.refusals import StoredDataDamaged, StoreUnavailable
from roundstore import redis_keys
from roundstore.peer_store import (
    HELD_SIGNALS,
    MemoryPeerStore,
    News,
    PeerStore,
    RoundChanged,
    Signal,
    SignalArrived,
    SignalsHeld,
    WatchBegun,
)
from roundstore.redis_peer_store import RedisPeerStore
from roundstore.redis_settings import connect
from tests.redis_process import RedisProcess

TASK, OTHER_TASK = TaskId("task"), TaskId("other")
HERE, THERE = ReplicaId("here"), ReplicaId("there")
ONE, TWO = PeerId("1"), PeerId("2")
POLICY = Policy(min_participants=2)


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[PeerStore]:
    if request.param == "memory":
        yield MemoryPeerStore()
        return
    async with connect(request.getfixturevalue("redis_url")) as client:
        yield RedisPeerStore(client)


def connected(number: int) -> Connected:
    return Connected(
        stream=Stream(HERE, number),
        lease_until=130.0,
        claimed_peer_id=None,
        claimed_token_digest="",
        client_digest="",
        fresh_peer_id=PeerId(str(number)),
        fresh_token_digest=f"token-{number}",
    )


def after(round: DecentralizedRound, *events: Event) -> DecentralizedRound:
    current = round
    for event in events:
        current = step(current, event, now=100.0, policy=POLICY)
    return current


def two_peers() -> DecentralizedRound:
    """A round with everything in it: a group, a standing group, a mark, a seat between streams."""
    current = after(DecentralizedRound(), connected(1), connected(2))
    one, two = current.seats[ONE], current.seats[TWO]
    return after(current, MarkedReady(one, 0, None), MarkedReady(two, 0, 109.5), connected(3), StreamBroken(one))


async def test_a_task_without_a_round_has_a_new_one(store: PeerStore) -> None:
    assert await store.read_round(TASK) == DecentralizedRound()


async def test_a_round_is_read_as_it_was_written(store: PeerStore) -> None:
    written = two_peers()
    written = after(written, MarkedReady(written.seats[PeerId("3")], 0, 140.25))
    assert written.groups
    assert written.marks
    assert await store.swap_round(TASK, DecentralizedRound(), written)
    assert await store.read_round(TASK) == written
    assert await store.read_round(OTHER_TASK) == DecentralizedRound()


async def test_of_two_who_swap_the_same_round_one_does(store: PeerStore) -> None:
    first, second = after(DecentralizedRound(), connected(1)), after(DecentralizedRound(), connected(2))
    assert await store.swap_round(TASK, DecentralizedRound(), first)
    assert not await store.swap_round(TASK, DecentralizedRound(), second)
    assert await store.read_round(TASK) == first
    assert await store.swap_round(TASK, first, after(first, connected(2)))
    assert list((await store.read_round(TASK)).seats) == ["1", "2"]


async def test_no_two_peers_get_the_same_id(store: PeerStore) -> None:
    ids = await asyncio.gather(*(store.fresh_peer_id(above=0) for _ in range(20)))
    assert sorted(ids, key=int) == [str(number) for number in range(1, 21)]


async def test_a_store_that_forgot_how_far_it_had_counted_goes_on_from_where_it_is_told(store: PeerStore) -> None:
    assert await store.fresh_peer_id(above=41) == "42"
    assert await store.fresh_peer_id(above=7) == "43"


async def test_held_signals_are_taken_once_and_in_order(store: PeerStore) -> None:
    signals = [Signal(ONE, TWO, b"offer \x00\xff"), Signal(PeerId("3"), TWO, b""), Signal(ONE, TWO, b"candidate")]
    for signal in signals:
        assert await store.hold_signal(TASK, signal)
    assert await store.take_signals(TASK, ONE) == []
    assert await store.take_signals(OTHER_TASK, TWO) == []
    assert await store.take_signals(TASK, TWO) == signals
    assert await store.take_signals(TASK, TWO) == []


async def test_no_more_signals_are_held_than_there_is_room_for(store: PeerStore) -> None:
    held = [await store.hold_signal(TASK, Signal(ONE, TWO, b"%d" % number)) for number in range(HELD_SIGNALS + 1)]
    assert held == [True] * HELD_SIGNALS + [False]
    assert await store.hold_signal(TASK, Signal(TWO, ONE, b"somebody else's"))
    taken = await store.take_signals(TASK, TWO)
    assert [signal.body for signal in taken] == [b"%d" % number for number in range(HELD_SIGNALS)]


async def test_a_signal_for_a_replica_that_does_not_listen_is_reported(store: PeerStore) -> None:
    assert not await store.send_signal(THERE, TASK, Signal(ONE, TWO, b"lost"))


async def test_whoever_watches_hears_of_swaps_and_signals_in_their_order(store: PeerStore) -> None:
    signal = Signal(ONE, TWO, b"offer")
    current = after(DecentralizedRound(), connected(1))
    async with aclosing(store.watch(HERE)) as here, aclosing(store.watch(THERE)) as there:
        assert await heard(here, 1) == [WatchBegun()]
        assert await heard(there, 1) == [WatchBegun()]
        assert await store.swap_round(TASK, DecentralizedRound(), current)
        assert await store.send_signal(HERE, TASK, signal)
        await store.announce_held(HERE, OTHER_TASK, TWO)
        assert await store.swap_round(TASK, current, after(current, connected(2)))
        assert await heard(here, 4) == [
            RoundChanged(TASK, 1),
            SignalArrived(TASK, signal),
            SignalsHeld(OTHER_TASK, TWO),
            RoundChanged(TASK, 2),
        ]
        assert await heard(there, 2) == [RoundChanged(TASK, 1), RoundChanged(TASK, 2)]


async def heard(news: AsyncIterator[News], count: int) -> list[News]:
    async with asyncio.timeout(10):
        return [await anext(news) for _ in range(count)]


# Redis alone.


async def test_what_lies_in_redis_is_as_documented(redis_client: redis.asyncio.Redis) -> None:
    store = RedisPeerStore(redis_client)
    await store.fresh_peer_id(above=0)
    await store.swap_round(TASK, DecentralizedRound(), two_peers())
    await store.hold_signal(TASK, Signal(ONE, TWO, b"x"))
    keys = sorted(await redis_client.keys("*"))
    assert keys == [b"disco:peer_ids", b"disco:{task}:held:2", b"disco:{task}:peers"]
    assert [await redis_client.type(key) for key in keys] == [b"string", b"list", b"hash"]
    assert await redis_client.ttl(keys[0]) == -1
    assert 0 < await redis_client.ttl(keys[1]) <= redis_keys.HELD_SIGNALS_TTL_S
    assert 0 < await redis_client.ttl(keys[2]) <= redis_keys.PEERS_TTL_S


async def test_a_round_that_is_damaged_is_named(redis_client: redis.asyncio.Redis) -> None:
    await redis_client.hset("disco:{task}:peers", mapping={"revision": "1", "body": "{"})
    with pytest.raises(StoredDataDamaged, match=r"disco:\{task\}:peers is not what was stored"):
        await RedisPeerStore(redis_client).read_round(TASK)


async def test_a_redis_that_is_gone_is_a_fault_and_one_that_is_back_is_watched_again(own_redis: RedisProcess) -> None:
    async with connect(own_redis.url) as client:
        store = RedisPeerStore(client)
        async with aclosing(store.watch(HERE)) as watched:
            assert await heard(watched, 1) == [WatchBegun()]
            own_redis.kill()
            with pytest.raises(StoreUnavailable):
                await heard(watched, 1)
        calls: list[Callable[[], object]] = [
            lambda: store.fresh_peer_id(above=0),
            lambda: store.read_round(TASK),
            lambda: store.swap_round(TASK, DecentralizedRound(), DecentralizedRound()),
            lambda: store.send_signal(THERE, TASK, Signal(ONE, TWO, b"")),
            lambda: store.hold_signal(TASK, Signal(ONE, TWO, b"")),
            lambda: store.take_signals(TASK, TWO),
        ]
        for call in calls:
            with pytest.raises(StoreUnavailable):
                await call()  # type: ignore[misc]
        own_redis.start()
        async with aclosing(store.watch(HERE)) as watched:
            assert await heard(watched, 1) == [WatchBegun()]


# Both stores, one history.

MOVES = st.lists(
    st.tuples(st.sampled_from(["connect", "mark", "break", "leave", "check"]), st.integers(1, 4), st.booleans()),
    max_size=25,
)


@given(moves=MOVES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_in_every_history_both_stores_keep_the_same_rounds(redis_url: str, moves: list[tuple[str, int, bool]]) -> None:
    async def play() -> None:
        async with connect(redis_url) as client:
            await client.flushall()
            stores: list[PeerStore] = [MemoryPeerStore(), RedisPeerStore(client)]
            stale = DecentralizedRound()
            for what, who, is_stale in moves:
                before = stale if is_stale else await stores[0].read_round(TASK)
                changed = step(before, event_of(before, what, who), now=100.0, policy=POLICY)
                if changed is before:
                    continue
                swapped = [await store.swap_round(TASK, before, changed) for store in stores]
                assert swapped[0] == swapped[1]
                rounds = [await store.read_round(TASK) for store in stores]
                assert rounds[0] == rounds[1]
                stale = before

    asyncio.run(play())


def event_of(round: DecentralizedRound, what: str, who: int) -> Event:
    seat = round.seats.get(PeerId(str(who))) or Seat(PeerId(str(who)), "t", "", 0, 130.0, Stream(THERE, who))
    held = seat_of(round, Stream(HERE, who)) or seat
    events: dict[str, Event] = {
        "connect": replace(connected(who), claimed_peer_id=seat.peer_id, claimed_token_digest=seat.token_digest),
        "mark": MarkedReady(held, round.number, None if who % 2 else 109.0),
        "break": StreamBroken(held),
        "leave": Left(held),
        "check": LeasesChecked(),
    }
    return events[what]
