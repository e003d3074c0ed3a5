"""Connects the streams of peers with each other, wherever those are.

    a peer's stream is        its signals go
    ────────────────────────  ─────────────────────────────────────────────────────────
    on this replica           into its queue
    on another replica        to that replica, by the store
    gone for a moment         into a short list in the store, until the peer is back
    gone for good             nowhere: PeerNotConnected

The signals of one sender to one peer stay in order, and come after the list of
the group that introduced the two: the store tells a replica of a new round before
it passes on a signal, and news are dealt with one after the other. The one
exception is a peer that moves from a living replica to another: what its old one still
receives is held and may come late.

Knows no gRPC. The rules are in `learning.decentralized`.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import secrets
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from learning.decentralized import (
    Connected,
    DecentralizedRound,
    Left,
    MarkedReady,
    PeerIdTaken,
    Stream,
    StreamBroken,
    may_signal,
    seat_of,
)
from learning.ids import PeerId, ReplicaId, TaskId
from learning.refusals import DiscoError, PeerNotConnected, StoredDataDamaged, StoreUnavailable, TooLarge
from learning.task import Task
from roundstore.peer_store import News, PeerStore, RoundChanged, Signal, SignalArrived, SignalsHeld, WatchBegun
from services.signaling.signaling_metrics import SignalingMetrics
from services.signaling.store_contact import StoreContact
from services.signaling.streams import OpenStream
from services.signaling.task_peers import TaskPeers

MAX_SIGNAL_BYTES = 64 << 10
SIGNAL_PATIENCE_S = 10.0
"""How long a signal is tried while the store is away; longer, and its negotiation has failed anyway."""
LEAVING_PATIENCE_S = 5.0
"""How long a peer's leaving is tried while the store is away; after that its lease ends by itself."""
FIRST_PAUSE_S = 0.05
WATCH_PAUSE_S = 0.2

_log = structlog.stdlib.get_logger("signaling")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a peer says when it connects; empty texts where it says nothing."""

    peer_id: str
    session_token: str
    client_id: str
    next_round: int
    protocol: str


@dataclass(frozen=True, slots=True)
class Session:
    """What a peer is told when it has connected."""

    stream: OpenStream
    session_token: str
    resumed: bool
    peers_present: int
    min_peers: int


class Switchboard:
    """All peers whose streams are on this replica."""

    def __init__(
        self,
        store: PeerStore,
        *,
        replica_id: ReplicaId,
        clock: Callable[[], float],
        lease_s: float,
        metrics: SignalingMetrics,
    ) -> None:
        self._store = store
        self.replica_id = replica_id
        self._clock = clock
        self._lease_s = lease_s
        self._metrics = metrics
        self._contact = StoreContact(clock)
        self._tasks: dict[TaskId, TaskPeers] = {}
        self._time_keepers: dict[TaskId, asyncio.Task[None]] = {}
        self._breaking: set[asyncio.Task[None]] = set()
        self._stream_numbers = itertools.count(1)

    async def connect(self, task: Task, claim: Claim) -> Session:
        """Opens a stream; `disconnect` closes it. Raises StoreUnavailable."""
        peers = self._use(task)
        try:
            while True:
                try:
                    return await self._connect(peers, claim)
                except PeerIdTaken:  # by now its number is known, and the next one is greater
                    continue
        except BaseException:
            self._release(peers)
            raise

    async def read_round(self, task_id: TaskId) -> DecentralizedRound:
        """The round that gathers, as all replicas know it. Raises StoreUnavailable."""
        with self._contact.watched():
            return await self._store.read_round(task_id)

    async def mark_ready(self, stream: OpenStream, *, patience_s: float | None) -> None:
        """Tries until the mark is written or its peer's patience has ended. Raises PeerReplaced."""
        until = None if patience_s is None else self._clock() + patience_s
        try:
            await self._tasks[stream.task_id].apply_until(MarkedReady(stream.seat, stream.next_round, until), until)
        except StoreUnavailable:
            _log.warning("peers.mark_dropped", task_id=stream.task_id, peer_id=stream.seat.peer_id)

    async def send_signal(self, stream: OpenStream, to: PeerId, *, body: bytes) -> None:
        """Delivers a signal, or tells its sender why not."""
        try:
            if len(body) > MAX_SIGNAL_BYTES:
                raise TooLarge(limit_bytes=MAX_SIGNAL_BYTES)
            await self._relay_until(stream.task_id, Signal(stream.seat.peer_id, to, body))
        except DiscoError as refused:
            self._metrics.signal("refused")
            stream.refuse(to, refused)

    async def leave(self, stream: OpenStream) -> None:
        """Gives the peer's seat up."""
        peers = self._tasks[stream.task_id]
        peers.streams.pop(stream.seat.peer_id, None)  # first of all, so that nobody renews its lease
        try:
            await peers.apply_until(Left(stream.seat), self._clock() + LEAVING_PATIENCE_S)
        except StoreUnavailable:
            _log.warning("peers.leaving_dropped", task_id=stream.task_id, peer_id=stream.seat.peer_id)

    async def disconnect(self, stream: OpenStream) -> None:
        """Closes a stream; its peer keeps the seat for the lease's time."""
        peers = self._tasks[stream.task_id]
        if peers.streams.get(stream.seat.peer_id) is stream:
            del peers.streams[stream.seat.peer_id]
        # A call may be cancelled a second time while it ends; this is done all the same.
        breaking = asyncio.create_task(self._break(peers, stream))
        self._breaking.add(breaking)
        breaking.add_done_callback(self._breaking.discard)
        await asyncio.shield(breaking)

    async def watch(self) -> None:
        """Deals with the news of the store, one after the other, for ever."""
        while True:
            try:
                async with aclosing(self._store.watch(self.replica_id)) as watched:
                    async for news in watched:
                        await self._hear(news)
            except StoreUnavailable:
                self._contact.lose()
                await asyncio.sleep(WATCH_PAUSE_S)
            except StoredDataDamaged as damaged:  # costs its own task dearly, and must not cost the others more
                _log.error("peers.damaged", sentence=str(damaged))
                await asyncio.sleep(WATCH_PAUSE_S)

    async def aclose(self) -> None:
        """Finishes what closing streams began, and stops keeping time: for the end of the process."""
        await asyncio.gather(*self._breaking, return_exceptions=True)
        keepers = list(self._time_keepers.values())
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)

    async def _connect(self, peers: TaskPeers, claim: Claim) -> Session:
        with self._contact.watched():
            fresh_peer_id = await self._store.fresh_peer_id(above=peers.highest_peer_id)
        fresh_token = secrets.token_urlsafe(24)
        stream_id = Stream(self.replica_id, next(self._stream_numbers))
        current = await peers.apply(
            Connected(
                stream=stream_id,
                lease_until=self._clock() + self._lease_s,
                claimed_peer_id=PeerId(claim.peer_id) if claim.peer_id else None,
                claimed_token_digest=_digest(claim.session_token),
                client_digest=_digest(claim.client_id),
                fresh_peer_id=fresh_peer_id,
                fresh_token_digest=_digest(fresh_token),
                protocol=claim.protocol,
            )
        )
        seat = seat_of(current, stream_id)
        assert seat is not None, "whoever connects has a seat"
        by_token = seat.token_digest != _digest(fresh_token)
        # A number that was never reached is not believed: it would keep this peer's lists back.
        next_round = max(seat.since_round, min(claim.next_round, current.number))
        stream = OpenStream(peers.task_id, seat, next_round=next_round)
        await self._open(peers, stream, is_same_client=by_token)
        return Session(
            stream=stream,
            session_token=claim.session_token if by_token else fresh_token,
            resumed=seat.peer_id != fresh_peer_id,
            peers_present=len(current.seats),
            min_peers=peers.policy.min_participants,
        )

    async def _open(self, peers: TaskPeers, stream: OpenStream, *, is_same_client: bool) -> None:
        peer_id = stream.seat.peer_id
        peers.streams[peer_id] = stream
        self._count_streams()
        peers.tell(stream)
        try:
            async with stream.taking:
                with self._contact.watched():
                    waited = await self._store.take_signals(peers.task_id, peer_id)
                stream.open(waited if is_same_client else ())  # one that began anew does not know what they answer
        except BaseException:
            if peers.streams.get(peer_id) is stream:
                del peers.streams[peer_id]
            raise

    async def _break(self, peers: TaskPeers, stream: OpenStream) -> None:
        try:
            await peers.apply(StreamBroken(stream.seat))
        except StoreUnavailable:
            _log.debug("peers.break_dropped", task_id=stream.task_id)  # the lease ends all the same
        finally:
            self._release(peers)

    async def _relay_until(self, task_id: TaskId, signal: Signal) -> None:
        """Raises PeerNotConnected, StoreUnavailable."""
        until = self._clock() + SIGNAL_PATIENCE_S
        pause = FIRST_PAUSE_S
        while True:
            try:
                self._metrics.signal(await self._relay(self._tasks[task_id], signal))
                return
            except StoreUnavailable:
                if self._clock() + pause >= until:
                    raise
            await asyncio.sleep(pause)
            pause *= 2

    async def _relay(self, peers: TaskPeers, signal: Signal) -> str:
        """Says where the signal went. Raises PeerNotConnected, StoreUnavailable."""
        if not may_signal(peers.round, signal.sender, signal.to):
            raise PeerNotConnected(peer_id=signal.to)
        if self._deliver(peers.task_id, signal):
            return "here"
        where = peers.round.seats[signal.to].stream
        if where is not None and where.replica_id != self.replica_id:
            with self._contact.watched():
                if await self._store.send_signal(where.replica_id, peers.task_id, signal):
                    return "passed_on"
        await self._hold(peers.task_id, signal)
        return "held"

    async def _hold(self, task_id: TaskId, signal: Signal) -> None:
        """Holds a signal for a peer that is between two streams. Raises PeerNotConnected, StoreUnavailable."""
        with self._contact.watched():
            if not await self._store.hold_signal(task_id, signal):
                raise PeerNotConnected(peer_id=signal.to)
            # The peer may have come back before the signal lay there: then it is looked for again.
            seat = (await self._store.read_round(task_id)).seats.get(signal.to)
            if seat is None:
                raise PeerNotConnected(peer_id=signal.to)
            if seat.stream is None:
                return
            if seat.stream.replica_id == self.replica_id:
                await self._take_held(task_id, signal.to)  # at once: what the sender says next is delivered directly
            else:
                await self._store.announce_held(seat.stream.replica_id, task_id, signal.to)

    async def _hear(self, news: News) -> None:
        match news:
            case WatchBegun():
                for peers in list(self._tasks.values()):
                    await peers.refresh()
                    for peer_id in list(peers.streams):
                        await self._take_held(peers.task_id, peer_id)
            case RoundChanged(task_id, revision):
                if task_id in self._tasks:
                    await self._tasks[task_id].refresh(beyond=revision)
            case SignalArrived(task_id, signal):
                if not self._deliver(task_id, signal):
                    await self._hold_late(task_id, signal)
            case SignalsHeld(task_id, peer_id):
                await self._take_held(task_id, peer_id)

    async def _take_held(self, task_id: TaskId, peer_id: PeerId) -> None:
        """Delivers what was held for a peer whose stream is here by now. If it is not, the next stream takes it."""
        peers = self._tasks.get(task_id)
        stream = peers.streams.get(peer_id) if peers else None
        if stream is None:
            return
        async with stream.taking:
            with self._contact.watched():
                held = await self._store.take_signals(task_id, peer_id)
            for signal in held:
                stream.signal(signal)

    async def _hold_late(self, task_id: TaskId, signal: Signal) -> None:
        """Holds a signal whose peer's stream has just gone from here; its sender hears no more of it."""
        try:
            await self._hold(task_id, signal)
            self._metrics.signal("held")
        except DiscoError:
            self._metrics.signal("lost")

    def _deliver(self, task_id: TaskId, signal: Signal) -> bool:
        peers = self._tasks.get(task_id)
        stream = peers.streams.get(signal.to) if peers else None
        if stream is not None:
            stream.signal(signal)
        return stream is not None

    def _use(self, task: Task) -> TaskPeers:
        peers = self._tasks.get(task.task_id)
        if peers is None:
            peers = self._tasks[task.task_id] = TaskPeers(
                task.task_id,
                task.policy,
                store=self._store,
                contact=self._contact,
                clock=self._clock,
                lease_s=self._lease_s,
            )
            self._time_keepers[task.task_id] = asyncio.create_task(peers.keep_time())
        peers.policy = task.policy
        peers.uses += 1
        return peers

    def _release(self, peers: TaskPeers) -> None:
        self._count_streams()
        peers.uses -= 1
        if peers.uses == 0:
            del self._tasks[peers.task_id]
            self._time_keepers.pop(peers.task_id).cancel()

    def _count_streams(self) -> None:
        self._metrics.streams(sum(len(peers.streams) for peers in self._tasks.values()))


def _digest(secret: str) -> str:
    """What is kept of a token or a client id; nothing where there is none."""
    return hashlib.sha256(secret.encode()).hexdigest() if secret else ""
