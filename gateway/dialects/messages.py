"""The messages between a client and a session, as no client generation spells them.

Knows no dialect, no socket and no task: a dialect turns frames into these and
these into frames; a session sees nothing else.

    client → server   Hello · Contribute · UnusableContribution
                      PullStatistics · PullLatest · PutMetadata · PullMetadata
                      JoinRound · MarkReady · SignalTo
    server → client   Welcome · VersionedWelcome · EnoughParticipants · ContributionAnswer
                      Statistics · Latest · MetadataMap
                      PeerWelcome · PeersForRound · SignalFrom
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NewType

from learning.refusals import DiscoError

Shapes = tuple[tuple[int, ...], ...]
"""Dimensions of each tensor, in the order in which weights travel."""

Room = Callable[[int], memoryview]
"""Gives so many bytes to put weights into."""
EncodedWeights = NewType("EncodedWeights", bytes)
"""Weights as one dialect spells them: a complete item, ready to be spliced into any number of messages."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The client introduces itself; it counts as present from here on."""


@dataclass(frozen=True, slots=True)
class Contribute:
    """Weights for a round. `weights` are canonical: little-endian float32 of all tensors, finite, of `shapes`."""

    weights: bytes | memoryview
    shapes: Shapes
    round: int


@dataclass(frozen=True, slots=True)
class UnusableContribution:
    """A contribution whose weights are refused. Its client may wait for an answer all the same."""

    round: int
    refusal: DiscoError


@dataclass(frozen=True, slots=True)
class PullStatistics:
    """The client asks how many take part."""


@dataclass(frozen=True, slots=True)
class PullLatest:
    """The client asks for the newest version."""


@dataclass(frozen=True, slots=True)
class PutMetadata:
    """The client leaves a text for the others, under a key, for a round."""

    round: int
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class PullMetadata:
    """The client asks what everybody left under a key, up to a round."""

    round: int
    key: str


@dataclass(frozen=True, slots=True)
class JoinRound:
    """The peer begins its local round, and will be ready at its end."""


@dataclass(frozen=True, slots=True)
class MarkReady:
    """The peer is ready to exchange weights."""


@dataclass(frozen=True, slots=True)
class SignalTo:
    """The peer wants a signal relayed. `body` is the signal's encoding exactly as received; nobody here reads it."""

    peer_id: str
    body: bytes


ClientMessage = (
    Hello
    | Contribute
    | UnusableContribution
    | PullStatistics
    | PullLatest
    | PutMetadata
    | PullMetadata
    | JoinRound
    | MarkReady
    | SignalTo
)


@dataclass(frozen=True, slots=True)
class Welcome:
    """Answers Hello in a federated task."""

    participant_id: str


@dataclass(frozen=True, slots=True)
class VersionedWelcome:
    """Answers Hello in a federated task with the newest version, the round that starts from it and who is present.

    Where `must_wait`, the client keeps its contribution back until EnoughParticipants.
    """

    participant_id: str
    must_wait: bool
    round: int
    weights: EncodedWeights
    participants: int


@dataclass(frozen=True, slots=True)
class EnoughParticipants:
    """Ends the waiting that a VersionedWelcome asked for."""


@dataclass(frozen=True, slots=True)
class ContributionAnswer:
    """Answers Contribute: the newest version, under the number that the client needs to see, and who is present."""

    round: int
    weights: EncodedWeights
    participants: int


@dataclass(frozen=True, slots=True)
class PeerWelcome:
    """Answers Hello in a decentralized task."""

    peer_id: str


@dataclass(frozen=True, slots=True)
class Statistics:
    """Answers PullStatistics: the round, and participants now, in sum over the rounds, and on average."""

    round: int
    current: int
    total: int
    average: float


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest version and the round that starts from it."""

    round: int
    weights: EncodedWeights


@dataclass(frozen=True, slots=True)
class MetadataMap:
    """Answers PullMetadata: (participant id, value) of everybody who left something under the key."""

    task_id: str
    participant_id: str
    round: int
    key: str
    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class PeersForRound:
    """The other peers of the round that starts now."""

    peer_ids: tuple[str, ...]
    round: int


@dataclass(frozen=True, slots=True)
class SignalFrom:
    """A signal of another peer, encoded as that peer encoded it."""

    peer_id: str
    body: bytes


ServerMessage = (
    Welcome
    | VersionedWelcome
    | EnoughParticipants
    | ContributionAnswer
    | Statistics
    | Latest
    | MetadataMap
    | PeerWelcome
    | PeersForRound
    | SignalFrom
)
