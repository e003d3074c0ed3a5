"""What a federated session is told and what it orders: events, calls, and the round as it sees it.

Words only; what follows from them is decided in `gateway.sessions.federated`.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.dialects.messages import EncodedWeights
from learning.refusals import DiscoError


@dataclass(frozen=True, slots=True)
class RoundView:
    """What a session must know of a round. `version` is the newest version."""

    number: int
    version: int
    revision: int
    participants: int
    contributions_ever: int
    min_participants: int = 0


# Calls: orders to whoever drives the session.


@dataclass(frozen=True, slots=True)
class JoinTask:
    """Make the participant present; answered by `Joined`, or by nothing where it cannot be done in time."""


@dataclass(frozen=True, slots=True)
class SubmitContribution:
    """Answered by `ContributionSettled`, whatever becomes of it."""

    round: int
    weights: bytes | memoryview


@dataclass(frozen=True, slots=True)
class ReadVersion:
    """Answered by `VersionRead` (an older one, if need be) or `VersionUnavailable`, by `until`."""

    version: int
    until: float


@dataclass(frozen=True, slots=True)
class StoreMetadata:
    round: int
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class ReadMetadata:
    """Answered by `MetadataRead`. `label` is the round as the client spelled it."""

    round: int
    key: str
    label: int


@dataclass(frozen=True, slots=True)
class NoteRefusal:
    """A contribution was refused before it could be submitted. Answered by nothing."""

    round: int
    refusal: DiscoError


@dataclass(frozen=True, slots=True)
class LeaveTask:
    """The last call of a session."""


Call = JoinTask | SubmitContribution | ReadVersion | StoreMetadata | ReadMetadata | NoteRefusal | LeaveTask


# Events: facts that whoever drives the session reports.


@dataclass(frozen=True, slots=True)
class Joined:
    round: RoundView


@dataclass(frozen=True, slots=True)
class RoundSeen:
    """The newest round, each time it changed."""

    round: RoundView


@dataclass(frozen=True, slots=True)
class ContributionSettled:
    """The contribution is counted in a round, or it was refused or given up because of `error`."""

    counted_in: int | None = None
    error: DiscoError | None = None


@dataclass(frozen=True, slots=True)
class VersionRead:
    version: int
    weights: EncodedWeights


@dataclass(frozen=True, slots=True)
class VersionUnavailable:
    """No version can be had at the moment."""


@dataclass(frozen=True, slots=True)
class MetadataRead:
    call: ReadMetadata
    entries: tuple[tuple[str, str], ...]


Event = Joined | RoundSeen | ContributionSettled | VersionRead | VersionUnavailable | MetadataRead
