"""Two replicas in this process on one real Redis, and peers on both over real gRPC."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from learning.ids import PeerId
from learning.refusals import StoreUnavailable
from roundstore.peer_store import MemoryPeerStore, PeerStore, Signal
from roundstore.redis_peer_store import RedisPeerStore
from roundstore.redis_settings import connect
from tests.redis_process import RedisProcess
from tests.services.signaling.peers import (
    TASK,
    Peer,
    Replica,
    a_task,
    channel_to,
    connected,
    keep_task,
    running_replica,
)
from tests.waiting import eventually


class HandMovedClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Pair:
    """Two replicas, a channel to each, and the store beneath them."""

    replicas: list[Replica]
    channels: list[grpc.aio.Channel]
    store: PeerStore
    clock: HandMovedClock


@asynccontextmanager
async def pair_on(url: str, directory: Path, *, min_peers: int) -> AsyncIterator[Pair]:
    await keep_task(directory, a_task(min_peers=min_peers))
    clock = HandMovedClock()
    async with AsyncExitStack() as stack:
        stores = [RedisPeerStore(await stack.enter_async_context(connect(url))) for _ in range(2)]
        replicas = [
            await stack.enter_async_context(running_replica(store, directory, name=f"replica-{index}", clock=clock))
            for index, store in enumerate(stores)
        ]
        channels = await stack.enter_async_context(channel_to(*replicas))
        yield Pair(replicas, channels, stores[0], clock)


async def peers_on_both(pair: Pair, count: int) -> list[Peer]:
    return [await Peer().connect(pair.channels[index % 2]) for index in range(count)]


def others(peers: list[Peer], peer: Peer) -> list[str]:
    return sorted((each.peer_id for each in peers if each is not peer), key=int)


@pytest.mark.parametrize("count", [2, 10, 50])
async def test_all_peers_hear_the_same_round_and_signals_come_in_order_after_it(
    redis_url: str, tmp_path: Path, count: int
) -> None:
    # What should happen:
    # 1. everybody gets the list of the others, in each of two rounds
    # 2. everybody signals the next five peers as soon as it has its list; all arrive, in order per sender
    # What should not happen:
    # - a signal before the list that introduced its sender
    async with pair_on(redis_url, tmp_path, min_peers=count) as pair:
        peers = await peers_on_both(pair, count)

        async def take_part(index: int, turn: int) -> None:
            peer = peers[index]
            await peer.mark_ready(9.0)
            assert await peer.hears_list(turn) == others(peers, peer)
            for number in range(4):
                for step in range(1, min(count, 6)):
                    await peer.send(peers[(index + step) % count].peer_id, b"%d %d" % (turn, number))

        for turn in range(2):
            await asyncio.gather(*(take_part(index, turn) for index in range(count)))
        for peer in peers:
            await peer.hears(lambda peer=peer: len(peer.signals) == 2 * 4 * (min(count, 6) - 1))  # type: ignore[misc]
            for sender in {sender for sender, _ in peer.signals}:
                bodies = [body for each, body in peer.signals if each == sender]
                assert bodies == [b"%d %d" % (turn, number) for turn in range(2) for number in range(4)]
            assert_lists_come_before_their_signals(peer)


def assert_lists_come_before_their_signals(peer: Peer) -> None:
    newest = -1
    for heard in peer.heard:
        if heard.HasField("peers_for_round"):
            newest = heard.peers_for_round.round
        if heard.HasField("signal"):
            assert int(heard.signal.body.split()[0]) <= newest


async def test_a_newer_stream_on_the_other_replica_takes_over(redis_url: str, tmp_path: Path) -> None:
    async with pair_on(redis_url, tmp_path, min_peers=2) as pair:
        one, two = await peers_on_both(pair, 2)
        again = await Peer(started=one.started).connect(pair.channels[1])
        await one.over()
        assert str(one.error) == "Peer 1 has connected again elsewhere; this connection is over."
        await again.mark_ready()
        await two.mark_ready()
        assert await again.hears_list(0) == ["2"]
        await two.send("1", b"hello")
        await again.hears(lambda: again.signals == [("2", b"hello")])


async def test_signals_for_a_peer_between_two_streams_wait_for_it(redis_url: str, tmp_path: Path) -> None:
    async with pair_on(redis_url, tmp_path, min_peers=2) as pair:
        one, two = await peers_on_both(pair, 2)
        await asyncio.gather(one.mark_ready(), two.mark_ready())
        await asyncio.gather(one.hears_list(0), two.hears_list(0))
        await one.break_off()
        await eventually(lambda: is_between_streams(pair.store, "1"))
        for number in range(20):
            await two.send("1", b"%d" % number)
        await eventually(lambda: counted(pair, "held", 20))
        await one.connect(pair.channels[1])
        await two.send("1", b"20")
        await one.hears(lambda: len(one.signals) == 21)
        assert [body for _, body in one.signals] == [b"%d" % number for number in range(21)]
        assert list(one.lists) == [0]


async def is_between_streams(store: PeerStore, peer_id: str) -> bool:
    return (await store.read_round(TASK)).seats[PeerId(peer_id)].stream is None


async def counted(pair: Pair, outcome: str, count: int) -> bool:
    return sum(replica.signals(outcome) for replica in pair.replicas) == count


async def test_a_signal_that_was_held_too_late_is_delivered_all_the_same(redis_url: str, tmp_path: Path) -> None:
    async with pair_on(redis_url, tmp_path, min_peers=2) as pair:
        one, two = await peers_on_both(pair, 2)
        await asyncio.gather(one.mark_ready(), two.mark_ready())
        await asyncio.gather(one.hears_list(0), two.hears_list(0))
        held = Signal(PeerId("2"), PeerId("1"), b"late")
        await pair.store.hold_signal(TASK, held)
        await pair.store.announce_held(pair.replicas[0].switchboard.replica_id, TASK, PeerId("1"))
        await one.hears(lambda: one.signals == [("2", b"late")])


async def test_a_signal_that_reaches_a_replica_after_its_peer_has_moved_is_passed_on(
    redis_url: str, tmp_path: Path
) -> None:
    async with pair_on(redis_url, tmp_path, min_peers=2) as pair:
        one, two = await peers_on_both(pair, 2)
        await asyncio.gather(one.mark_ready(), two.mark_ready())
        await asyncio.gather(one.hears_list(0), two.hears_list(0))
        misled = Signal(PeerId("2"), PeerId("1"), b"to where it was")
        await one.connect(pair.channels[1])
        await pair.store.send_signal(pair.replicas[0].switchboard.replica_id, TASK, misled)
        await one.hears(lambda: one.signals == [("2", b"to where it was")])


async def test_a_signal_for_a_peer_that_left_meanwhile_is_counted_as_lost(redis_url: str, tmp_path: Path) -> None:
    async with pair_on(redis_url, tmp_path, min_peers=2) as pair:
        await peers_on_both(pair, 2)
        gone = Signal(PeerId("2"), PeerId("7"), b"")
        await pair.store.send_signal(pair.replicas[0].switchboard.replica_id, TASK, gone)
        await eventually(lambda: counted(pair, "lost", 1))


async def test_a_group_stays_together_until_a_lease_ends(redis_url: str, tmp_path: Path) -> None:
    async with pair_on(redis_url, tmp_path, min_peers=2) as pair:
        peers = await peers_on_both(pair, 2)
        await asyncio.gather(*(peer.mark_ready() for peer in peers))
        await asyncio.gather(*(peer.hears_list(0) for peer in peers))
        third = await Peer().connect(pair.channels[0])
        await third.mark_ready()
        await eventually(lambda: are_ready(pair.store, {"3"}))
        for peer in peers:
            await peer.mark_ready()
        assert await third.hears_list(1) == ["1", "2"]
        await peers[1].break_off()
        await eventually(lambda: is_between_streams(pair.store, "2"))
        await peers[0].mark_ready()
        await third.mark_ready()
        await eventually(lambda: are_ready(pair.store, {"1", "3"}))
        pair.clock.now += 20  # real seconds do not pass here, so somebody must knock
        await Peer().connect(pair.channels[0])
        await eventually(lambda: is_renewed(pair, peers[0]))
        pair.clock.now += 11
        await Peer().connect(pair.channels[0])
        assert await third.hears_list(2) == ["1"]


async def is_renewed(pair: Pair, peer: Peer) -> bool:
    seat = (await pair.store.read_round(TASK)).seats[PeerId(peer.peer_id)]
    return seat.lease_until == pair.clock.now + 30


async def are_ready(store: PeerStore, peer_ids: set[str]) -> bool:
    return set((await store.read_round(TASK)).marks) == peer_ids


async def test_those_who_are_ready_go_ahead_when_patience_ends(redis_url: str, tmp_path: Path) -> None:
    async with pair_on(redis_url, tmp_path, min_peers=2) as pair:
        peers = await peers_on_both(pair, 3)
        await asyncio.gather(*(peer.mark_ready() for peer in peers[:2]))
        await asyncio.gather(*(peer.hears_list(0) for peer in peers[:2]))
        await peers[0].mark_ready(9.0)
        await peers[2].mark_ready(9.0)
        await eventually(lambda: are_ready(pair.store, {"1", "3"}))
        assert peers[2].lists == {}
        pair.clock.now += 8
        await Peer().connect(pair.channels[1])  # real seconds do not pass here, so somebody must knock
        assert await peers[2].hears_list(1) == ["1"]


async def test_redis_may_be_killed_in_the_middle(own_redis: RedisProcess, tmp_path: Path) -> None:
    # What should happen:
    # 1. while Redis is away, streams stay open, and marks and signals wait
    # 2. when it is back, seats and marks are as they were, though every lease has ended meanwhile
    # What should not happen:
    # - a list that comes twice or never
    async with pair_on(own_redis.url, tmp_path, min_peers=4) as pair:
        peers = await peers_on_both(pair, 4)
        for peer in peers:
            await peer.mark_ready()
        await asyncio.gather(*(peer.hears_list(0) for peer in peers))
        for peer in peers[:2]:
            await peer.mark_ready(600.0)
        await eventually(lambda: are_ready(pair.store, {"1", "2"}))
        own_redis.kill()
        await peers[0].send("3", b"on the same replica")
        await peers[2].hears(lambda: peers[2].signals == [("1", b"on the same replica")])
        await peers[0].send("2", b"on the other one")
        for peer in peers[2:]:
            await peer.mark_ready(600.0)
        with pytest.raises(StoreUnavailable):
            await Peer().connect(pair.channels[0])
        pair.clock.now += 8
        own_redis.start()
        for peer in peers:
            assert await peer.hears_list(1) == others(peers, peer)
        await peers[1].hears(lambda: peers[1].signals == [("1", b"on the other one")])
        pair.clock.now += 60
        own_redis.kill()
        own_redis.start()
        await eventually(lambda: all_leases_renewed(pair, 4))
        assert not any(peer.listening.done() for peer in peers)
        assert [sorted(peer.lists) for peer in peers] == [[0, 1]] * 4


async def all_leases_renewed(pair: Pair, count: int) -> bool:
    seats = (await pair.store.read_round(TASK)).seats
    return len(seats) == count and all(seat.lease_until > pair.clock.now for seat in seats.values())


async def test_redis_may_forget_everything(redis_url: str, tmp_path: Path) -> None:
    async with pair_on(redis_url, tmp_path, min_peers=2) as pair:
        peers = await peers_on_both(pair, 2)
        for turn in range(3):
            await asyncio.gather(*(peer.mark_ready() for peer in peers))
            await asyncio.gather(*(peer.hears_list(turn) for peer in peers))
        async with connect(redis_url) as client:
            await client.flushall()
        [newcomer] = await connected(pair.channels[0], 1)
        assert newcomer.peer_id == "3"
        await asyncio.gather(*(peer.mark_ready() for peer in peers))
        assert await peers[0].hears_list(3) == ["2"]
        assert await peers[1].hears_list(3) == ["1"]


@pytest.mark.parametrize("seed", range(4))
async def test_every_list_comes_exactly_once_whenever_streams_break(tmp_path: Path, seed: int) -> None:
    # What should happen: peers break off and come back at any moment, on any replica; each round reaches all of them.
    chance = random.Random(seed)
    await keep_task(tmp_path, a_task(min_peers=3))
    store = MemoryPeerStore()
    async with (
        running_replica(store, tmp_path, name="a") as a,
        running_replica(store, tmp_path, name="b") as b,
        channel_to(a, b) as channels,
    ):
        peers = [await Peer().connect(chance.choice(channels)) for _ in range(3)]

        async def take_part(peer: Peer) -> None:
            for turn in range(6):
                await peer.mark_ready()
                if chance.random() < 0.5:
                    # Once the mark is in the store: what a stream had not read when it broke, the peer says again.
                    await eventually(lambda turn=turn: was_marked(store, peer, turn))  # type: ignore[misc]
                    await peer.break_off()
                    await peer.connect(chance.choice(channels))
                    assert peer.started.resumed
                await peer.hears_list(turn)

        await asyncio.gather(*(take_part(peer) for peer in peers))
        for peer in peers:
            assert peer.lists == {turn: others(peers, peer) for turn in range(6)}


async def was_marked(store: PeerStore, peer: Peer, turn: int) -> bool:
    current = await store.read_round(TASK)
    return peer.peer_id in current.marks or current.number > turn


async def test_a_peer_that_does_not_read_is_dropped_and_keeps_its_seat(redis_url: str, tmp_path: Path) -> None:
    async with pair_on(redis_url, tmp_path, min_peers=2) as pair:
        one, two = await peers_on_both(pair, 2)
        await asyncio.gather(one.mark_ready(), two.mark_ready())
        await asyncio.gather(one.hears_list(0), two.hears_list(0))
        one.listening.cancel()
        for _ in range(400):
            await two.send("1", bytes(64 * 1024))
        await eventually(lambda: is_between_streams(pair.store, "1"))
        await one.connect(pair.channels[0])
        assert one.started.resumed
        assert not two.listening.done()


async def test_peers_that_leave_make_room_at_once(redis_url: str, tmp_path: Path) -> None:
    async with pair_on(redis_url, tmp_path, min_peers=2) as pair:
        one, two, three = await peers_on_both(pair, 3)
        await asyncio.gather(*(peer.mark_ready() for peer in (one, two)))
        await asyncio.gather(one.hears_list(0), two.hears_list(0))
        await three.mark_ready()
        await two.mark_ready()
        await one.end_session()
        assert await three.hears_list(1) == ["2"]
        [four] = await connected(pair.channels[0], 1)
        assert four.started.peers_present == 3
