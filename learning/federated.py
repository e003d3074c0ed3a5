"""Federated rounds: the rule book.

Rule 1: everything that decides when a round moves lives in this file.
Rule 2: this file does not know about Redis, gRPC, clocks or weights.

    state        event               what happens
    ───────────  ──────────────────  ─────────────────────────────────────────────────────
    any          Joined              present until the lease ends; renewing is joining again
    any          Left                no longer present, unless it joined elsewhere since; what is acknowledged stays
    any          LeasesChecked       everyone whose lease has ended has left
    any          PolicyChanged       the new policy holds at once, its cap on weights from the next round on
    COLLECTING   GroupContributed    all of the group is admitted, or none (GroupConflict)
    COLLECTING   ClosingStarted      → AGGREGATING, if the round is due; NotDue otherwise
    AGGREGATING  GroupContributed    RoundMoved: wait for the next round
    AGGREGATING  ClosingStarted      takes over when the closer's lease has ended; NotDue otherwise
    COLLECTING   RestoringStarted    → AGGREGATING, due or not: the next version will be an older one again
    AGGREGATING  RestoringStarted    NotDue: wait for the version that is being computed
    AGGREGATING  VersionPublished    → COLLECTING, the next number, nobody has contributed
    COLLECTING   VersionPublished    RoundMoved: another closer was first

What becomes of a round when stored bytes are lost is in `learning.losses`.

A round that is over is not a state but a number that has passed. `revision`
grows by one with every event that changed anything.

Times are seconds since the epoch, passed in. Leases and deadlines end *at*
their instant: at `now == until` they are over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from fractions import Fraction
from functools import lru_cache
from typing import assert_never

from learning.ids import ParticipantId, ReplicaId, TaskId
from learning.policy import Policy
from learning.refusals import (
    DiscoError,
    DuplicateContribution,
    WeightCapReached,
)

SHARES_CACHED = 1024


@dataclass(frozen=True, slots=True)
class Restoring:
    """What the next version will be where somebody rolls back: the weights of an older one again."""

    version: int
    request_id: str
    asked_at: float


class State(Enum):
    """Where a round stands."""

    COLLECTING = "collecting"
    AGGREGATING = "aggregating"


@dataclass(frozen=True, slots=True)
class Contribution:
    """What the round must know of one contribution. `digest` is the SHA-256 of its weights, in lower-case hex."""

    participant_id: ParticipantId
    digest: str
    base_round: int
    weight: int
    norm: float | None = None
    """How far it changes the model; None where the task does not ask. Remembered once it is admitted."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A contribution that is counted: in round `round`, at `position` from 0."""

    participant_id: ParticipantId
    digest: str
    base_round: int
    weight: int
    round: int
    position: int
    sum: str = field(default="", compare=False)
    """The name of the partial sum that it is in; empty in what was written before that was kept."""


@dataclass(frozen=True, slots=True)
class RoundStatus:
    """What decides: the numbers of a round, without the names in it."""

    task_id: TaskId
    epoch: str
    """Given anew when a round is opened in an empty store; sums of another epoch are void."""
    number: int
    state: State
    policy: Policy
    revision: int
    participants: int
    contributions: int
    absent_contributors: int
    total_weight: int
    weight_cap: int
    """Cap on the total weight, fixed when the round opens: the precision of its sums hangs on it."""
    first_contribution_at: float | None
    closer: ReplicaId | None
    closer_until: float | None
    last_contributions: int
    contributions_ever: int
    restoring: Restoring | None = None
    """While the round is AGGREGATING: why, where it is not the mean that is computed."""
    oldest_base: int = 0
    """The round from which on contributions may start: those that started before a rollback are refused."""
    lost: int = 0
    """Contributions of this round that were acknowledged and are lost; their positions are given to nobody else."""


def contributions_needed(status: RoundStatus) -> int:
    """Contributions that close the round before its deadline, as things stand.

    A contributor who has left still counts on both sides, so that the others
    are waited for all the same.
    """
    policy = status.policy
    if policy.quorum_count is not None:
        wanted = policy.quorum_count
    else:
        wanted = _of_share(policy.quorum_share, status.participants + status.absent_contributors)
    return max(policy.min_participants, wanted)


@lru_cache(SHARES_CACHED)  # it is asked several times of every change, and fractions are slow
def _of_share(share: float | None, participants: int) -> int:
    # The share as people write it: 0.07 of 100 are 7, though the double nearest to 0.07 gives a little more.
    return math.ceil(Fraction(str(share)) * participants)


def round_deadline(status: RoundStatus) -> float | None:
    """When the round closes with what is there; None before the first contribution."""
    if status.first_contribution_at is None:
        return None
    return status.first_contribution_at + status.policy.deadline_s


def is_due(status: RoundStatus, now: float) -> bool:
    """Whether somebody should start closing the round now, or take over from a closer that is gone."""
    if status.state is State.AGGREGATING:
        assert status.closer_until is not None
        return now >= status.closer_until
    if status.contributions >= contributions_needed(status):
        return True
    deadline = round_deadline(status)
    return deadline is not None and now >= deadline and status.contributions >= status.policy.min_participants


def look_again_at(status: RoundStatus) -> float | None:
    """When `is_due` may change although nothing happens; None: never."""
    if status.state is State.AGGREGATING:
        return status.closer_until
    return round_deadline(status) if status.contributions >= status.policy.min_participants else None


# Events: facts that a store writes down.


@dataclass(frozen=True, slots=True)
class Joined:
    participant_ids: tuple[ParticipantId, ...]
    lease_until: float
    connection: str = ""
    """Which connection joins; empty: not told, as when a lease is renewed."""


@dataclass(frozen=True, slots=True)
class Left:
    participant_id: ParticipantId
    connection: str = ""
    """Which connection ended; empty: the participant has left, whichever it joined through."""


@dataclass(frozen=True, slots=True)
class LeasesChecked:
    pass


@dataclass(frozen=True, slots=True)
class PolicyChanged:
    policy: Policy


@dataclass(frozen=True, slots=True)
class GroupContributed:
    """One group of contributions, folded into one partial sum, for round `number`."""

    number: int
    group: tuple[Contribution, ...]
    sum: str = ""


@dataclass(frozen=True, slots=True)
class ClosingStarted:
    """`is_judged`: it was found due by whoever asks, or its version exists already."""

    number: int
    closer: ReplicaId
    until: float
    is_judged: bool = False


@dataclass(frozen=True, slots=True)
class RestoringStarted:
    """Somebody rolls back. What was admitted to the round stays in the ledger and is in no weights."""

    number: int
    closer: ReplicaId
    until: float
    restoring: Restoring


@dataclass(frozen=True, slots=True)
class VersionPublished:
    """Version `number + 1` is stored; round `number` is over.

    The version counts so many contributions, and so many with those before it; None: as the round says.
    """

    number: int
    contributions: int | None = None
    contributions_ever: int | None = None


OfClosing = ClosingStarted | RestoringStarted | VersionPublished
Event = Joined | Left | LeasesChecked | PolicyChanged | GroupContributed | OfClosing


# Outcomes other than "yes". They stay between a store and its caller, and never reach a client.


class RoundMoved(Exception):
    """The round is not the one, or not in the state, that the caller believed in: read it again."""


class NotDue(Exception):
    """The round is not due, or somebody else is closing it."""


class GroupConflict(Exception):
    """Some members of a group cannot be admitted, so none was: `refused` says which (by index) and why.

    The value is the admission it already has where the same digest is counted
    already, and a refusal otherwise.
    """

    def __init__(self, refused: Mapping[int, Admission | DiscoError]) -> None:
        self.refused = dict(refused)
        super().__init__(f"{len(refused)} members of the group cannot be admitted")


@dataclass(frozen=True, slots=True)
class FederatedRound:
    """A round with the names in it: what a store keeps."""

    task_id: TaskId
    epoch: str
    policy: Policy
    weight_cap: int
    number: int = 0
    state: State = State.COLLECTING
    revision: int = 0
    leases: Mapping[ParticipantId, float] = field(default_factory=dict)
    connections: Mapping[ParticipantId, str] = field(default_factory=dict)
    """Through which connection those who are present joined last, where that was told."""
    admissions: Mapping[ParticipantId, Admission] = field(default_factory=dict)
    total_weight: int = 0
    first_contribution_at: float | None = None
    closer: ReplicaId | None = None
    closer_until: float | None = None
    last_contributions: int = 0
    contributions_ever: int = 0
    restoring: Restoring | None = None
    oldest_base: int = 0
    lost: int = 0

    @property
    def status(self) -> RoundStatus:
        return RoundStatus(
            task_id=self.task_id,
            epoch=self.epoch,
            number=self.number,
            state=self.state,
            policy=self.policy,
            revision=self.revision,
            participants=len(self.leases),
            contributions=len(self.admissions),
            absent_contributors=sum(who not in self.leases for who in self.admissions),
            total_weight=self.total_weight,
            weight_cap=self.weight_cap,
            first_contribution_at=self.first_contribution_at,
            closer=self.closer,
            closer_until=self.closer_until,
            last_contributions=self.last_contributions,
            contributions_ever=self.contributions_ever,
            restoring=self.restoring,
            oldest_base=self.oldest_base,
            lost=self.lost,
        )


def step(round: FederatedRound, event: Event, now: float) -> FederatedRound:
    """The round after `event`.

    Raises RoundMoved, NotDue, GroupConflict; the round is then unchanged. An
    event that changes nothing returns the round itself, revision and all.
    """
    changed = _changed(round, event, now)
    return round if changed == round else replace(changed, revision=round.revision + 1)


def _with_leases(round: FederatedRound, leases: Mapping[ParticipantId, float]) -> FederatedRound:
    """The round with fewer participants present."""
    connections = {who: connection for who, connection in round.connections.items() if who in leases}
    return replace(round, leases=leases, connections=connections)


def _changed(round: FederatedRound, event: Event, now: float) -> FederatedRound:
    match event:
        case Joined(participant_ids, lease_until, connection):
            joined = {**round.leases, **dict.fromkeys(participant_ids, lease_until)}
            told = dict.fromkeys(participant_ids, connection) if connection else {}
            return replace(round, leases=joined, connections={**round.connections, **told})
        case Left(participant_id, connection):
            if connection and round.connections.get(participant_id, connection) != connection:
                return round
            return _with_leases(round, {who: until for who, until in round.leases.items() if who != participant_id})
        case LeasesChecked():
            return _with_leases(round, {who: until for who, until in round.leases.items() if until > now})
        case PolicyChanged(policy):
            return replace(round, policy=policy)
        case GroupContributed(number, group, sum):
            if round.state is not State.COLLECTING or number != round.number:
                raise RoundMoved
            return _admit(round, group, sum, now)
        case ClosingStarted(number, closer, until, is_judged):
            judged = is_judged and round.state is State.COLLECTING
            if number != round.number or not (judged or is_due(round.status, now)):
                raise NotDue
            return replace(round, state=State.AGGREGATING, closer=closer, closer_until=until)
        case RestoringStarted(number, closer, until, restoring):
            if number != round.number or round.state is not State.COLLECTING:
                raise NotDue
            return replace(round, state=State.AGGREGATING, closer=closer, closer_until=until, restoring=restoring)
        case VersionPublished(number, contributions, ever):
            if round.state is not State.AGGREGATING or number != round.number:
                raise RoundMoved
            admitted = len(round.admissions)
            return FederatedRound(
                task_id=round.task_id,
                epoch=round.epoch,
                policy=round.policy,
                weight_cap=round.policy.max_total_weight,
                number=round.number + 1,
                revision=round.revision,
                leases=round.leases,
                connections=round.connections,
                last_contributions=admitted if contributions is None else contributions,
                contributions_ever=round.contributions_ever + admitted if ever is None else ever,
                oldest_base=round.oldest_base if round.restoring is None else round.number + 1,
            )
        case _:
            assert_never(event)


def _admit(round: FederatedRound, group: Sequence[Contribution], sum: str, now: float) -> FederatedRound:
    admissions = dict(round.admissions)
    total_weight = round.total_weight
    refused: dict[int, Admission | DiscoError] = {}
    assert group, "a group has members"
    for index, offered in enumerate(group):
        earlier = admissions.get(offered.participant_id)
        if earlier is not None:
            refused[index] = (
                earlier
                if earlier.digest == offered.digest
                else DuplicateContribution(participant_id=offered.participant_id, round=round.number)
            )
        elif total_weight + offered.weight > round.weight_cap:
            refused[index] = WeightCapReached(cap=round.weight_cap)
        else:
            admissions[offered.participant_id] = Admission(
                participant_id=offered.participant_id,
                digest=offered.digest,
                base_round=offered.base_round,
                weight=offered.weight,
                round=round.number,
                position=round.lost + len(admissions),
                sum=sum,
            )
            total_weight += offered.weight
    if refused:
        raise GroupConflict(refused)
    return replace(
        round,
        admissions=admissions,
        total_weight=total_weight,
        first_contribution_at=now if round.first_contribution_at is None else round.first_contribution_at,
    )
