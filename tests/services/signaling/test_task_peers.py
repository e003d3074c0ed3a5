"""One task on one replica: how it meets others in the store, and what it does when time passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from learning.decentralized import Connected, DecentralizedRound, LeasesChecked, MarkedReady, Seat, Stream, seat_of
from learning.ids import PeerId, ReplicaId, TaskId
from learning.policy import Policy
from learning.refusals import PeerReplaced, StoreUnavailable
from roundstore.peer_store import MemoryPeerStore, PeerStore
from services.signaling import task_peers
from services.signaling.store_contact import StoreContact
from services.signaling.streams import OpenStream, PeerList
from services.signaling.task_peers import TaskPeers
from tests.waiting import eventually

TASK = TaskId("task")
LEASE_S = 30.0


class Replica:
    """One replica's view, with a clock that is moved by hand."""

    def __init__(self, store: PeerStore, name: str) -> None:
        self.name = ReplicaId(name)
        self.now = 1000.0
        self.peers = TaskPeers(
            TASK,
            Policy(min_participants=2),
            store=store,
            contact=StoreContact(lambda: self.now),
            clock=lambda: self.now,
            lease_s=LEASE_S,
        )

    async def connect(self, number: int, *, claims: Seat | None = None) -> OpenStream:
        stream = Stream(self.name, number)
        current = await self.peers.apply(
            Connected(
                stream=stream,
                lease_until=self.now + LEASE_S,
                claimed_peer_id=claims.peer_id if claims else None,
                claimed_token_digest=claims.token_digest if claims else "",
                client_digest="",
                fresh_peer_id=PeerId(str(number)),
                fresh_token_digest=f"token-{number}",
            )
        )
        seat = seat_of(current, stream)
        assert seat is not None
        opened = self.peers.streams[seat.peer_id] = OpenStream(TASK, seat, next_round=0)
        opened.open(())
        return opened

    @asynccontextmanager
    async def keeping_time(self) -> AsyncIterator[None]:
        keeper = asyncio.create_task(self.peers.keep_time())
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)


async def test_a_list_goes_to_each_stream_once_and_a_replaced_stream_ends() -> None:
    store = MemoryPeerStore()
    here, there = Replica(store, "here"), Replica(store, "there")
    one, two = await here.connect(1), await there.connect(2)
    await here.peers.apply(MarkedReady(one.seat, 0, None))
    await there.peers.apply(MarkedReady(two.seat, 0, None))
    await here.peers.refresh()
    await here.peers.refresh()
    assert await one.next_message() == PeerList(0, (PeerId("2"),))
    assert await two.next_message() == PeerList(0, (PeerId("1"),))
    assert (one.next_round, two.next_round) == (1, 1)
    await there.connect(3, claims=one.seat)
    await here.peers.refresh()
    with pytest.raises(PeerReplaced):
        await one.next_message()
    assert list(here.peers.streams) == []
    assert list(there.peers.streams) == ["2", "1"]


async def test_a_hint_that_is_known_already_costs_no_reading() -> None:
    store = MemoryPeerStore()
    here, there = Replica(store, "here"), Replica(store, "there")
    await here.connect(1)
    await there.connect(2)
    await here.peers.refresh(beyond=1)
    assert list(here.peers.round.seats) == ["1"]
    await here.peers.refresh(beyond=2)
    assert list(here.peers.round.seats) == ["1", "2"]


async def test_leases_are_renewed_and_those_of_the_gone_end() -> None:
    store = MemoryPeerStore()
    here, there = Replica(store, "here"), Replica(store, "there")
    await there.connect(2)
    await here.connect(1)
    async with here.keeping_time():
        here.now += LEASE_S
        await here.peers.refresh()  # real seconds do not pass here, so somebody must knock

        async def only_one_is_left() -> bool:
            return list((await store.read_round(TASK)).seats) == ["1"]

        await eventually(only_one_is_left)
        assert (await store.read_round(TASK)).seats[PeerId("1")].lease_until == here.now + LEASE_S


async def test_after_an_outage_others_get_time_to_renew_theirs() -> None:
    store = MemoryPeerStore()
    here, there = Replica(store, "here"), Replica(store, "there")
    await there.connect(2)
    await here.connect(1)
    here.now += 2 * LEASE_S
    here.peers.contact.lose()
    async with here.keeping_time():
        await here.peers.refresh()

        async def own_is_renewed() -> bool:
            return (await store.read_round(TASK)).seats[PeerId("1")].lease_until == here.now + LEASE_S

        await eventually(own_is_renewed)
        await here.peers.refresh()
        assert list((await store.read_round(TASK)).seats) == ["2", "1"]
        here.now += LEASE_S / 2
        await here.peers.refresh()

        async def the_other_s_has_ended() -> bool:
            return list((await store.read_round(TASK)).seats) == ["1"]

        await eventually(the_other_s_has_ended)


class TroubledStore(MemoryPeerStore):
    """Says no to the next swaps: somebody else was first, or nobody is there."""

    def __init__(self) -> None:
        super().__init__()
        self.conflicts = 0
        self.outages = 0
        self.swaps = 0

    async def swap_round(self, task_id: TaskId, before: DecentralizedRound, after: DecentralizedRound) -> bool:
        self.swaps += 1
        if self.conflicts > 0:
            self.conflicts -= 1
            return False
        if self.outages > 0:
            self.outages -= 1
            raise StoreUnavailable
        return await super().swap_round(task_id, before, after)


async def test_whoever_was_not_first_tries_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_peers, "SWAP_ATTEMPTS", 5)
    store = TroubledStore()
    here = Replica(store, "here")
    store.conflicts = 4
    assert (await here.connect(1)).seat.peer_id == "1"
    store.conflicts, store.swaps = 5, 0
    with pytest.raises(StoreUnavailable):
        await here.connect(2)
    assert store.swaps == 5


async def test_what_makes_sense_for_long_is_tried_for_long_and_the_rest_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(task_peers, "FIRST_PAUSE_S", 0.001)
    store = TroubledStore()
    here = Replica(store, "here")
    one = await here.connect(1)
    store.outages, store.swaps = 3, 0
    await here.peers.apply_until(MarkedReady(one.seat, 0, None), None)
    assert store.swaps == 4
    assert list(here.peers.round.marks) == ["1"]
    store.outages = 1
    with pytest.raises(StoreUnavailable):
        await here.peers.apply_until(MarkedReady(one.seat, 0, here.now + 9), here.now)


async def test_an_event_that_changes_nothing_is_not_written() -> None:
    store = TroubledStore()
    here = Replica(store, "here")
    await here.connect(1)
    store.swaps = 0
    await here.peers.apply(LeasesChecked())
    assert store.swaps == 0
