"""Decentralized rounds: the rule book. Who holds which seat, who is ready, and when a group is formed.

Rule 1: everything that decides who is whose peer lives in this file.
Rule 2: this file does not know about Redis, gRPC, clocks, tokens in the clear, or signals.

    event           seat is the stream's    seat is another stream's   there is no seat
    ──────────────  ──────────────────────  ─────────────────────────  ─────────────────────────────
    Connected       the token (or client id) decides: its seat is taken up again by the new stream, or a new one given
    Renewed         the lease is prolonged  nothing                    the seat is given back
    MarkedReady     marked                  PeerReplaced               the seat is given back; marked
    StreamBroken    between streams         nothing                    nothing
    Left            the seat is given up    nothing                    nothing
    LeasesChecked   every seat whose lease has ended is given up
    TimePassed      nothing

`next_round` in an event is the first round whose list the peer has not been
sent. A peer that was grouped in such a round is not marked again, so that a mark
may be written twice where nobody knows whether it was written once.

An open stream whose seat is missing gets it back: the store may have forgotten
the seat, but the peer at the other end is there. A number of a round that has
been used is never used again while anybody is there who remembers it.

After every event the round settles:

1. A ready mark whose patience has ended is removed: its client has gone on alone.
2. Of the standing group (the last one formed) those remain who are present;
   where they are fewer than `min_participants`, they are free again.
3. With at least `min_participants` ready, a group is formed of all who are ready
   and speak the same protocol with each other; peers of other protocols are to
   them as if they were in another task
   - when every member of the standing group is ready: groups may grow, but do
     not shrink while their members are there, because the oldest clients wait
     for a contribution of every peer that they ever connected to; or
   - when a mark is about to end, so that nobody goes away empty-handed.
   The group gets the round's number, the marks are cleared, the group stands,
   and the next number is gathered.

`revision` grows by one with every event that changed anything. Times are
seconds since the epoch, passed in; at `now == until` a lease or a mark is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeVar

from learning.ids import PeerId, ReplicaId
from learning.policy import Policy
from learning.refusals import PeerReplaced

Value = TypeVar("Value")

GROUPS_KEPT = 8
"""Groups that are remembered: for peers that come back, and to know who may signal whom."""

MARGIN_S = 1.0
"""A group is formed this long before a mark ends, so that the list arrives while its client still waits."""


class Waiting(Enum):
    """What a round waits for."""

    PEERS = "peers"
    READY_PEERS = "ready_peers"
    STANDING_GROUP = "standing_group"


@dataclass(frozen=True, slots=True)
class Stream:
    """One open stream: the `number`-th of its replica."""

    replica_id: ReplicaId
    number: int


@dataclass(frozen=True, slots=True)
class Seat:
    """A peer's place in a task. It outlives the peer's streams until its lease ends."""

    peer_id: PeerId
    token_digest: str
    """SHA-256 of the session token; the token itself is known to the peer alone."""
    client_digest: str
    """SHA-256 of the client id; empty where the client named none."""
    since_round: int
    """Number of the round that gathered when the client began: it knows nothing of earlier lists."""
    lease_until: float
    stream: Stream | None
    """None: between streams."""
    protocol: str = ""
    """How its client speaks with other peers."""


@dataclass(frozen=True, slots=True)
class ReadyMark:
    """A peer that wants its peers, and until when; None: as long as it is there."""

    since: float
    until: float | None


@dataclass(frozen=True, slots=True)
class Group:
    """The peers of a round, in ascending order of their numbers."""

    round: int
    members: tuple[PeerId, ...]

    def others(self, peer_id: PeerId) -> tuple[PeerId, ...]:
        return tuple(member for member in self.members if member != peer_id)


@dataclass(frozen=True, slots=True)
class DecentralizedRound:
    """The round that gathers, and who is there: what a store keeps of a task. Seats and marks are by peer."""

    number: int = 0
    revision: int = 0
    seats: Mapping[PeerId, Seat] = field(default_factory=dict)
    marks: Mapping[PeerId, ReadyMark] = field(default_factory=dict)
    standing: tuple[PeerId, ...] = ()
    groups: tuple[Group, ...] = ()
    """The newest groups, oldest first."""


# Events: facts that a store writes down.


@dataclass(frozen=True, slots=True)
class Connected:
    """A stream was opened. What it claims comes first, what it gets where nothing of that holds comes second."""

    stream: Stream
    lease_until: float
    claimed_peer_id: PeerId | None
    claimed_token_digest: str
    client_digest: str
    fresh_peer_id: PeerId
    fresh_token_digest: str
    protocol: str = ""


@dataclass(frozen=True, slots=True)
class Renewed:
    """The streams of these seats are open."""

    seats: tuple[Seat, ...]
    next_round: int
    lease_until: float


@dataclass(frozen=True, slots=True)
class MarkedReady:
    seat: Seat
    next_round: int
    until: float | None


@dataclass(frozen=True, slots=True)
class StreamBroken:
    seat: Seat


@dataclass(frozen=True, slots=True)
class Left:
    seat: Seat


@dataclass(frozen=True, slots=True)
class LeasesChecked:
    pass


@dataclass(frozen=True, slots=True)
class TimePassed:
    pass


class PeerIdTaken(Exception):
    """The fresh peer id has been given already: the store forgot how far it had counted. Never reaches a client."""


Event = Connected | Renewed | MarkedReady | StreamBroken | Left | LeasesChecked | TimePassed


def step(round: DecentralizedRound, event: Event, *, now: float, policy: Policy) -> DecentralizedRound:
    """The round after `event`, settled.

    Raises PeerReplaced, PeerIdTaken; the round is then unchanged. An event that
    changes nothing returns the round itself, revision and all.
    """
    changed = _settled(_changed(round, event, now), now, policy)
    return round if changed == round else replace(changed, revision=round.revision + 1)


def seat_of(round: DecentralizedRound, stream: Stream) -> Seat | None:
    """The seat that a stream holds."""
    return next((seat for seat in round.seats.values() if seat.stream == stream), None)


def missed_group(round: DecentralizedRound, peer_id: PeerId, *, next_round: int) -> Group | None:
    """The newest group of a peer whose list it has not seen: it has seen those before `next_round`.

    An older list is worth nothing beside a newer one: its round is over.
    """
    seat = round.seats.get(peer_id)
    newest = next((group for group in reversed(round.groups) if peer_id in group.members), None)
    if seat is None or newest is None or newest.round < max(next_round, seat.since_round):
        return None
    return newest


def may_signal(round: DecentralizedRound, sender: PeerId, to: PeerId) -> bool:
    """Whether a signal may go from one peer to another: they were introduced lately, and the other is still there."""
    return to in round.seats and sender != to and any({sender, to} <= set(group.members) for group in round.groups)


def look_again_at(round: DecentralizedRound, policy: Policy) -> float | None:
    """When the round may settle differently although nothing happens; None: never."""
    ends = [mark.until for mark in round.marks.values() if mark.until is not None]
    for protocol in _protocols(round):
        marks = _marks_of(round, protocol)
        if len(marks) >= policy.min_participants:
            ends.extend(_forms_at(mark, policy) for mark in marks.values())
    return min(ends, default=None)


def next_lease_end(round: DecentralizedRound) -> float | None:
    """When the first seat is given up unless it is renewed; None where there is no seat."""
    return min((seat.lease_until for seat in round.seats.values()), default=None)


def waiting_for(round: DecentralizedRound, policy: Policy) -> tuple[Waiting, str]:
    """What the round waits for: for programs, and as a sentence for people. With several protocols, what those wait for
    who are nearest to a group."""
    protocol = max(_protocols(round), key=lambda name: len(_marks_of(round, name)), default="")
    marks = _marks_of(round, protocol)
    peers = {who for who, seat in round.seats.items() if seat.protocol == protocol}
    present, ready, least = len(peers), len(marks), policy.min_participants
    if present < least:
        return Waiting.PEERS, f"Round {round.number} waits for peers: {present} of at least {least} are present."
    if ready < least:
        return Waiting.READY_PEERS, (
            f"Round {round.number} waits for peers to be ready: {ready} of at least {least}; {present} are present."
        )
    standing = peers.intersection(round.standing)
    return Waiting.STANDING_GROUP, (
        f"Round {round.number} waits for {len(standing - marks.keys())} of the {len(standing)} peers of the last "
        f"group; {ready} are ready, and go ahead before the first of them gives up."
    )


def _changed(round: DecentralizedRound, event: Event, now: float) -> DecentralizedRound:
    match event:
        case Connected():
            return _connected(round, event)
        case Renewed(seats, next_round, lease_until):
            current = round
            for seat in seats:
                if _is_held_by(round, seat) is not False:
                    known = round.seats.get(seat.peer_id, seat)
                    current = _seated(current, replace(known, lease_until=lease_until), next_round)
            return current
        case MarkedReady(seat, next_round, until):
            held = _is_held_by(round, seat)
            if held is False:
                raise PeerReplaced(peer_id=seat.peer_id)
            if missed_group(round, seat.peer_id, next_round=next_round):
                return round
            seated = round if held else _seated(round, seat, next_round)
            earlier = seated.marks.get(seat.peer_id)
            mark = ReadyMark(since=earlier.since if earlier else now, until=until)
            return replace(seated, marks={**seated.marks, seat.peer_id: mark})
        case StreamBroken(seat):
            if not _is_held_by(round, seat):
                return round
            return _with_seat(round, replace(round.seats[seat.peer_id], stream=None))
        case Left(seat):
            return _without(round, [seat.peer_id]) if _is_held_by(round, seat) else round
        case LeasesChecked():
            return _without(round, [seat.peer_id for seat in round.seats.values() if seat.lease_until <= now])
        case TimePassed():
            return round


def _connected(round: DecentralizedRound, event: Connected) -> DecentralizedRound:
    claimed = round.seats.get(event.claimed_peer_id) if event.claimed_peer_id is not None else None
    if claimed is not None and claimed.token_digest == event.claimed_token_digest:
        return _with_seat(round, replace(claimed, stream=event.stream, lease_until=event.lease_until))
    seat = Seat(
        peer_id=event.fresh_peer_id,
        token_digest=event.fresh_token_digest,
        client_digest=event.client_digest,
        since_round=round.number,
        lease_until=event.lease_until,
        stream=event.stream,
        protocol=event.protocol,
    )
    # The client id is itself the secret here: clients that put one in their URL have
    # nothing else to show, and only its digest is kept. Whoever comes without the token
    # is a client that has begun anew: it keeps its id, and has not said that it is ready.
    known = [earlier for earlier in round.seats.values() if earlier.client_digest == event.client_digest != ""]
    if not known:
        taken = round.seats.get(seat.peer_id)
        if taken is not None and taken.stream != seat.stream:
            raise PeerIdTaken
        return _with_seat(round, seat)
    again = replace(seat, peer_id=known[0].peer_id)
    return _with_seat(replace(round, marks=_except(round.marks, [again.peer_id])), again)


def _is_held_by(round: DecentralizedRound, seat: Seat) -> bool | None:
    """Whether the seat is held by the stream that says so; None where there is no such seat."""
    held = round.seats.get(seat.peer_id)
    return None if held is None else held.stream == seat.stream


def _seated(round: DecentralizedRound, seat: Seat, next_round: int) -> DecentralizedRound:
    """The round with a seat that its own stream vouches for; it may remember more rounds than the store."""
    return replace(_with_seat(round, seat), number=max(round.number, next_round))


def _with_seat(round: DecentralizedRound, seat: Seat) -> DecentralizedRound:
    return replace(round, seats={**round.seats, seat.peer_id: seat})


def _without(round: DecentralizedRound, peer_ids: Iterable[PeerId]) -> DecentralizedRound:
    gone = set(peer_ids)
    return replace(round, seats=_except(round.seats, gone), marks=_except(round.marks, gone))


def _except(by_peer: Mapping[PeerId, Value], gone: Iterable[PeerId]) -> dict[PeerId, Value]:
    left_out = set(gone)
    return {peer_id: value for peer_id, value in by_peer.items() if peer_id not in left_out}


def _forms_at(mark: ReadyMark, policy: Policy) -> float:
    """When those who are ready go ahead, lest this one gives up; where its patience has no end, the policy's has."""
    if mark.until is None:
        return mark.since + policy.deadline_s
    return mark.until - min(MARGIN_S, (mark.until - mark.since) / 2)


def _protocols(round: DecentralizedRound) -> list[str]:
    return sorted({seat.protocol for seat in round.seats.values()})


def _marks_of(round: DecentralizedRound, protocol: str) -> dict[PeerId, ReadyMark]:
    return {who: mark for who, mark in round.marks.items() if round.seats[who].protocol == protocol}


def _settled(round: DecentralizedRound, now: float, policy: Policy) -> DecentralizedRound:
    marks = {who: mark for who, mark in round.marks.items() if mark.until is None or mark.until > now}
    standing = tuple(who for who in round.standing if who in round.seats)
    settled = replace(round, marks=marks, standing=standing)
    for protocol in _protocols(round):
        settled = _settled_among(settled, protocol, now, policy)
    return settled


def _settled_among(round: DecentralizedRound, protocol: str, now: float, policy: Policy) -> DecentralizedRound:
    """The round, settled for the peers of one protocol."""
    others = tuple(who for who in round.standing if round.seats[who].protocol != protocol)
    standing = tuple(who for who in round.standing if round.seats[who].protocol == protocol)
    if len(standing) < policy.min_participants:
        standing = ()
    settled = replace(round, standing=(*others, *standing))
    marks = _marks_of(settled, protocol)
    if len(marks) < policy.min_participants:
        return settled
    if not all(who in marks for who in standing) and all(now < _forms_at(mark, policy) for mark in marks.values()):
        return settled
    members = tuple(sorted(marks, key=int))
    return replace(
        settled,
        number=settled.number + 1,
        marks=_except(settled.marks, members),
        standing=(*others, *members),
        groups=(*settled.groups, Group(settled.number, members))[-GROUPS_KEPT:],
    )
