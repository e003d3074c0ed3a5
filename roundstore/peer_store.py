"""What a store of decentralized rounds promises; the rules themselves are `learning.decentralized`.

It keeps one small value for each task and swaps it whole, and it carries signals
between replicas. Knows no rule and no stream. Two implementations pass one
contract suite (tests/roundstore/test_peer_stores.py): `MemoryPeerStore`, for one process, and
`RedisPeerStore`, which is shared by all.

Every method may raise StoreUnavailable; the caller then does not know whether
the change was made.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from learning.decentralized import DecentralizedRound
from learning.ids import PeerId, ReplicaId, TaskId

HELD_SIGNALS = 512
"""Signals that are held for one peer: a negotiation takes about ten with each of up to fifty peers."""


@dataclass(frozen=True, slots=True)
class Signal:
    """What one peer says to another, opaque to us."""

    sender: PeerId
    to: PeerId
    body: bytes


@dataclass(frozen=True, slots=True)
class WatchBegun:
    """Whatever happened before this may have been missed."""


@dataclass(frozen=True, slots=True)
class RoundChanged:
    """The round of a task is now at this revision."""

    task_id: TaskId
    revision: int


@dataclass(frozen=True, slots=True)
class SignalArrived:
    """A signal for a peer whose stream is on this replica."""

    task_id: TaskId
    signal: Signal


@dataclass(frozen=True, slots=True)
class SignalsHeld:
    """Signals are held for a peer whose stream is on this replica: it came back just then."""

    task_id: TaskId
    peer_id: PeerId


News = WatchBegun | RoundChanged | SignalArrived | SignalsHeld


class PeerStore(Protocol):
    """Keeps the decentralized rounds of all tasks, and carries signals between replicas."""

    async def fresh_peer_id(self, *, above: int) -> PeerId:
        """Decimal digits that no peer of any task has had, of a number greater than `above`.

        Behaviour: `above` is for a store that forgot how far it had counted; it
        goes on from there.
        """

    async def read_round(self, task_id: TaskId) -> DecentralizedRound:
        """Behaviour: a new round, with nobody in it, where the task has none in this store."""

    async def swap_round(self, task_id: TaskId, before: DecentralizedRound, after: DecentralizedRound) -> bool:
        """Replaces the round, if it is still at the revision of `before`; says whether it was.

        Behaviour: everybody who watches hears of it, in the order of the swaps,
        and before any signal that is sent afterwards.
        """

    async def send_signal(self, replica_id: ReplicaId, task_id: TaskId, signal: Signal) -> bool:
        """Passes a signal to the replica that holds its peer's stream; says whether that replica listens.

        Behaviour: in order. A signal that was passed on may still be lost with
        the connection, and comes twice at worst.
        """

    async def hold_signal(self, task_id: TaskId, signal: Signal) -> bool:
        """Holds a signal for a peer between two streams; says whether there was room.

        Behaviour: held for at least 15 seconds unless taken.
        """

    async def take_signals(self, task_id: TaskId, peer_id: PeerId) -> list[Signal]:
        """Takes the signals that are held for a peer, in their order, out of the store."""

    async def announce_held(self, replica_id: ReplicaId, task_id: TaskId, peer_id: PeerId) -> None:
        """Tells a replica that signals are held for one of its peers."""

    def watch(self, replica_id: ReplicaId) -> AsyncGenerator[News, None]:
        """News of all tasks, and the signals for this replica.

        Behaviour: begins with WatchBegun, which comes again each time the
        connection to the store was lost and found again. Raises StoreUnavailable
        where the connection is lost; watching may then be begun anew. Close it
        (`aclosing`): it holds a connection.
        """


class MemoryPeerStore:
    """Decentralized rounds in the memory of one process, for as long as it lives."""

    def __init__(self) -> None:
        self._peers = 0
        self._rounds: dict[TaskId, DecentralizedRound] = {}
        self._held: defaultdict[tuple[TaskId, PeerId], list[Signal]] = defaultdict(list)
        self._watchers: dict[ReplicaId, asyncio.Queue[News]] = {}

    async def fresh_peer_id(self, *, above: int) -> PeerId:
        self._peers = max(self._peers, above) + 1
        return PeerId(str(self._peers))

    async def read_round(self, task_id: TaskId) -> DecentralizedRound:
        return self._rounds.get(task_id, DecentralizedRound())

    async def swap_round(self, task_id: TaskId, before: DecentralizedRound, after: DecentralizedRound) -> bool:
        if self._rounds.get(task_id, DecentralizedRound()).revision != before.revision:
            return False
        self._rounds[task_id] = after
        for news in self._watchers.values():
            news.put_nowait(RoundChanged(task_id, after.revision))
        return True

    async def send_signal(self, replica_id: ReplicaId, task_id: TaskId, signal: Signal) -> bool:
        return self._tell(replica_id, SignalArrived(task_id, signal))

    async def hold_signal(self, task_id: TaskId, signal: Signal) -> bool:
        held = self._held[task_id, signal.to]
        if len(held) >= HELD_SIGNALS:
            return False
        held.append(signal)
        return True

    async def take_signals(self, task_id: TaskId, peer_id: PeerId) -> list[Signal]:
        return self._held.pop((task_id, peer_id), [])

    async def announce_held(self, replica_id: ReplicaId, task_id: TaskId, peer_id: PeerId) -> None:
        self._tell(replica_id, SignalsHeld(task_id, peer_id))

    async def watch(self, replica_id: ReplicaId) -> AsyncGenerator[News, None]:
        news = self._watchers[replica_id] = asyncio.Queue()
        try:
            yield WatchBegun()
            while True:
                yield await news.get()
        finally:
            del self._watchers[replica_id]

    def _tell(self, replica_id: ReplicaId, news: News) -> bool:
        if replica_id not in self._watchers:
            return False
        self._watchers[replica_id].put_nowait(news)
        return True
