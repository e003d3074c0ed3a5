"""The peers of one task as one replica sees them: the round it knows, the streams it holds, and the time it keeps.

    apply     one event: step the known round, swap it, or read again and retry
    adopt     a newer round is known: lists go out, streams that were replaced end
    keep_time renews the leases of the streams here; wakes the round when it may settle by itself

The rules are in `learning.decentralized`; what peers say to each other is in
`services.signaling.switchboard`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog

from learning.decentralized import (
    DecentralizedRound,
    Event,
    LeasesChecked,
    Renewed,
    TimePassed,
    look_again_at,
    missed_group,
    next_lease_end,
    step,
    waiting_for,
)
from learning.ids import PeerId, TaskId
from learning.policy import Policy
from learning.refusals import PeerReplaced, StoredDataDamaged, StoreUnavailable
from roundstore.peer_store import PeerStore
from services.signaling.store_contact import StoreContact
from services.signaling.streams import OpenStream

SWAP_ATTEMPTS = 40
LONGEST_SWAP_PAUSE_S = 0.02
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0

_log = structlog.stdlib.get_logger("signaling")


class TaskPeers:
    """One task on one replica. Lives as long as somebody `uses` it."""

    def __init__(
        self,
        task_id: TaskId,
        policy: Policy,
        *,
        store: PeerStore,
        contact: StoreContact,
        clock: Callable[[], float],
        lease_s: float,
    ) -> None:
        self.task_id = task_id
        self.policy = policy
        self.streams: dict[PeerId, OpenStream] = {}
        self.uses = 0
        self.round = DecentralizedRound()
        self.highest_peer_id = 0
        """Of all that were seen in this task, should the store forget how far it had counted."""
        self._is_newest = False
        """False: the known round is good enough to route signals, and not to be changed."""
        self._store = store
        self.contact = contact
        self._clock = clock
        self._lease_s = lease_s
        self._renewed_at = clock()
        # Replicas of other processes are met by compare-and-swap; within this one, changes queue here.
        self._lock = asyncio.Lock()
        self._news = asyncio.Event()

    async def apply(self, event: Event) -> DecentralizedRound:
        """The round after an event.

        Raises PeerReplaced, PeerIdTaken; StoreUnavailable, and then the event may have been applied.
        """
        async with self._lock:
            for attempt in range(SWAP_ATTEMPTS):
                before = await self._newest()
                after = step(before, event, now=self._clock(), policy=self.policy)
                if after is before or await self._swapped(before, after):
                    self._adopt(after)
                    if after.groups != before.groups:
                        self._announce(after)
                    return after
                await asyncio.sleep(random.random() * min(LONGEST_SWAP_PAUSE_S, attempt / 1000))  # noqa: S311
        _log.warning("peers.too_many_conflicts", task_id=self.task_id, attempts=SWAP_ATTEMPTS)
        raise StoreUnavailable

    async def apply_until(self, event: Event, until: float | None) -> None:
        """Applies an event, again and again while the store is away, for as long as it makes sense.

        Raises PeerReplaced, StoreUnavailable.
        """
        pause = FIRST_PAUSE_S
        while True:
            try:
                await self.apply(event)
                return
            except StoreUnavailable:
                if until is not None and self._clock() + pause >= until:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def refresh(self, *, beyond: int | None = None) -> None:
        """Reads the round again, unless a revision beyond `beyond` is known. Raises StoreUnavailable."""
        async with self._lock:
            if beyond is not None and self._is_newest and self.round.revision >= beyond:
                return
            self._is_newest = False
            await self._newest()

    async def keep_time(self) -> None:
        """Does what is due, for ever."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                await self._do_what_is_due()
                pause = FIRST_PAUSE_S
                wait = max(0.0, self._wake_at() - self._clock())
            except (StoreUnavailable, StoredDataDamaged):
                wait = pause
                pause = min(2 * pause, LONGEST_PAUSE_S)
            self._news.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._news.wait()
            except TimeoutError:
                continue

    def tell(self, stream: OpenStream) -> None:
        """Sends a stream the list that it has not seen."""
        group = missed_group(self.round, stream.seat.peer_id, next_round=stream.next_round)
        if group is not None:
            stream.introduce(group)

    async def _newest(self) -> DecentralizedRound:
        if not self._is_newest:
            with self.contact.watched():
                newest = await self._store.read_round(self.task_id)
            self._is_newest = True
            self._adopt(newest)
        return self.round

    async def _swapped(self, before: DecentralizedRound, after: DecentralizedRound) -> bool:
        # Until it is certain that nobody else was first, what is known may be old.
        self._is_newest = False
        with self.contact.watched():
            self._is_newest = await self._store.swap_round(self.task_id, before, after)
        return self._is_newest

    def _adopt(self, round: DecentralizedRound) -> None:
        self.round = round
        self.highest_peer_id = max(self.highest_peer_id, *map(int, round.seats), 0)
        for stream in list(self.streams.values()):
            seat = round.seats.get(stream.seat.peer_id)
            if seat is not None and seat.stream != stream.seat.stream:
                del self.streams[stream.seat.peer_id]
                stream.end(PeerReplaced(peer_id=seat.peer_id))
            else:
                self.tell(stream)
        self._news.set()

    def _announce(self, round: DecentralizedRound) -> None:
        """Says that this replica formed a group."""
        group = round.groups[-1]
        waiting, sentence = waiting_for(round, self.policy)
        _log.info("peers.introduced", task_id=self.task_id, round=group.round, peers=len(group.members))
        _log.debug("peers.waiting", task_id=self.task_id, waiting=waiting.value, sentence=sentence)

    async def _do_what_is_due(self) -> None:
        now = self._clock()
        if now >= self._renewal_at():
            await self._renew(now)
            self._renewed_at = now
        settles = look_again_at(self.round, self.policy)
        if settles is not None and now >= settles:
            await self.apply(TimePassed())
        ends = self._leases_end_at()
        if ends is not None and now >= ends:
            await self.apply(LeasesChecked())

    async def _renew(self, now: float) -> None:
        streams = list(self.streams.values())
        if streams:
            next_round = max(stream.next_round for stream in streams)
            await self.apply(Renewed(tuple(stream.seat for stream in streams), next_round, now + self._lease_s))

    def _wake_at(self) -> float:
        times = (self._renewal_at(), look_again_at(self.round, self.policy), self._leases_end_at())
        return min(time for time in times if time is not None)

    def _renewal_at(self) -> float:
        return self._renewed_at + self._lease_s / 3

    def _leases_end_at(self) -> float | None:
        """When leases are looked at. Not soon after the store was away: the others could not renew theirs either."""
        ends, steady = next_lease_end(self.round), self.contact.steady_at(self._lease_s / 2)
        return None if ends is None or steady is None else max(ends, steady)
