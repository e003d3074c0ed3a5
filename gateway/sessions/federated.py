"""One participant's socket in a federated task, without the socket.

Knows no gRPC, no frames and no clock: messages and events go in, messages and
calls come out, and `now` is passed in. After everything that goes in, whoever
drives the session drains `take_messages` and `take_calls`, and calls `tick` no
later than `wake_at`.

    in    receive(message) · deliver(event) · tick · lost
    out   take_messages · take_calls · wake_at

    state      Hello          other messages   lost
    ─────────  ─────────────  ───────────────  ────────────────────────────────────────
    CONNECTED  → JOINED       refused          → LEFT
    JOINED     welcome again  handled          → LEAVING
    LEAVING    –              –                → LEFT when its contributions are settled
    LEFT       –              –                –

Labels. A client counts rounds on its own: from 0, and afterwards the number of
the last answer it adopted, which it does only where that number is greater than
its own. So a round travels under a *label*, which is the round's number unless
the client comes from a server that was further on; then all labels are moved up
by `offset`. Label 0, before anything was adopted, means the round the client
found when it came.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from gateway.dialects.messages import (
    ClientMessage,
    Contribute,
    EncodedWeights,
    Hello,
    Latest,
    MarkReady,
    MetadataMap,
    PullLatest,
    PullMetadata,
    PullStatistics,
    PutMetadata,
    ServerMessage,
    Shapes,
    SignalTo,
    Statistics,
    Welcome,
)
from learning.refusals import InvalidWeights, MalformedMessage, SlowConsumer

ANSWER_WITHIN_S = 9.0
"""The clients give an answer up after 10 seconds."""
MAX_UNANSWERED = 8
"""Pulls of one kind that may wait for their answer at the same time."""
LABELS_REMEMBERED = 64


class State(Enum):
    CONNECTED = "connected"
    JOINED = "joined"
    LEAVING = "leaving"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class RoundView:
    """What a session must know of a round. `version` is the newest version."""

    number: int
    version: int
    revision: int
    participants: int
    contributions_ever: int


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
class LeaveTask:
    """The last call of a session."""


Call = JoinTask | SubmitContribution | ReadVersion | StoreMetadata | ReadMetadata | LeaveTask


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
    """The contribution was acknowledged or refused, or given up."""


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


class FederatedSession:
    """See the module's docstring."""

    def __init__(self, task_id: str, participant_id: str, *, shapes: Shapes, poll_hold_s: float) -> None:
        self._task_id = task_id
        self._participant_id = participant_id
        self._shapes = shapes
        self._poll_hold_s = min(poll_hold_s, ANSWER_WITHIN_S)
        self.state = State.CONNECTED
        self._round: RoundView | None = None
        self._labels = _Labels()
        self._contributions: deque[Contribute] = deque()
        self._submitting = False
        self._reading = False
        self._hellos: deque[float] = deque()
        self._statistics: deque[float] = deque()
        self._pulls: deque[float] = deque()
        self._calls: list[Call] = []
        self._messages: list[ServerMessage] = []

    # In.

    def receive(self, message: ClientMessage, now: float) -> None:
        """Raises MalformedMessage, InvalidWeights or SlowConsumer; that costs the message only."""
        if self.state is State.CONNECTED and not isinstance(message, Hello):
            raise MalformedMessage(problem="the client has not introduced itself yet")
        match message:
            case Hello():
                self._greet(now)
            case Contribute():
                self._queue_contribution(message)
            case PullStatistics():
                _enqueue(self._statistics, now)
            case PullLatest():
                _enqueue(self._pulls, now)
            case PutMetadata(label, key, value):
                self._calls.append(StoreMetadata(self._labels.peek(label), key, value))
            case PullMetadata(label, key):
                self._calls.append(ReadMetadata(self._labels.peek(label), key, label))
            case MarkReady() | SignalTo():
                raise MalformedMessage(problem="peers are not introduced to each other in a federated task")
        self._proceed(now)

    def deliver(self, event: Event, now: float) -> None:
        match event:
            case Joined(round) | RoundSeen(round):
                self._round = round
                self._labels.see(round.number)
            case ContributionSettled():
                self._submitting = False
            case VersionRead(version, weights):
                self._reading = False
                self._answer_pulls(version, weights)
            case VersionUnavailable():
                # Nothing true can be said; the client gives up by itself at its own limit.
                self._reading = False
                self._pulls.clear()
            case MetadataRead(call, entries):
                self._messages.append(MetadataMap(self._task_id, self._participant_id, call.label, call.key, entries))
        self._proceed(now)

    def tick(self, now: float) -> None:
        self._proceed(now)

    def lost(self, now: float, *, orderly: bool) -> None:
        """The socket is gone. What was received whole is still contributed, if it is known to which round."""
        self.state = State.LEFT if self.state is State.CONNECTED else State.LEAVING
        for owed in (self._hellos, self._statistics, self._pulls):
            owed.clear()
        if self._round is None:
            self._contributions.clear()
        self._proceed(now)

    # Out.

    def take_calls(self) -> list[Call]:
        calls, self._calls = self._calls, []
        return calls

    def take_messages(self) -> list[ServerMessage]:
        messages, self._messages = self._messages, []
        return messages if self.state is State.JOINED else []

    def wake_at(self) -> float | None:
        """When `tick` must be called although nothing happened; None: no need."""
        moments = [owed[0] + ANSWER_WITHIN_S for owed in (self._hellos, self._statistics) if owed]
        if self._pulls and not self._reading:
            moments.append(self._pulls[0] + self._poll_hold_s)
        return min(moments, default=None)

    # What follows from what is known.

    def _greet(self, now: float) -> None:
        if self.state is State.CONNECTED:
            self.state = State.JOINED
            self._calls.append(JoinTask())
        _enqueue(self._hellos, now)

    def _proceed(self, now: float) -> None:
        self._submit_next()
        if self._hellos and (self._round or now >= self._hellos[0] + ANSWER_WITHIN_S):
            # Welcome even where the join is still on its way: its lease makes the participant present later.
            self._messages.extend(Welcome(self._participant_id) for _ in self._hellos)
            self._hellos.clear()
        if self._statistics and (self._round or now >= self._statistics[0] + ANSWER_WITHIN_S):
            self._messages.extend(self._current_statistics() for _ in self._statistics)
            self._statistics.clear()
        if self._pulls and not self._reading and self._pull_is_due(now):
            self._reading = True
            version = self._round.version if self._round else 0
            self._calls.append(ReadVersion(version, until=max(now, self._pulls[0] + ANSWER_WITHIN_S)))
        if self.state is State.LEAVING and not self._submitting and not self._contributions:
            self.state = State.LEFT
            self._calls.append(LeaveTask())

    def _queue_contribution(self, contribution: Contribute) -> None:
        """One may be on its way and one may wait: what a client can have in flight without running ahead of us."""
        if contribution.shapes != self._shapes:
            raise InvalidWeights(problem=_difference(contribution.shapes, self._shapes))
        if self._contributions:
            raise SlowConsumer
        self._contributions.append(contribution)

    def _submit_next(self) -> None:
        """Contributions go one at a time, in order, once it is known which round they belong to."""
        if self._contributions and not self._submitting and self._round is not None:
            contribution = self._contributions.popleft()
            self._submitting = True
            self._calls.append(SubmitContribution(self._labels.round_of(contribution.round), contribution.weights))

    def _pull_is_due(self, now: float) -> bool:
        if now >= self._pulls[0] + self._poll_hold_s:
            return True
        settled = not self._submitting and not self._contributions
        return settled and self._round is not None and self._round.version > self._labels.base

    def _answer_pulls(self, version: int, weights: EncodedWeights) -> None:
        """A client adopts an answer only where its number is greater than its own: here, where there is news."""
        label = self._labels.give_out(version)
        self._messages.extend(Latest(label, weights) for _ in self._pulls)
        self._pulls.clear()

    def _current_statistics(self) -> Statistics:
        if self._round is None:
            return Statistics(round=0, current=0, total=0, average=0.0)
        number, total = self._round.number, self._round.contributions_ever
        return Statistics(
            round=self._labels.label_of(number),
            current=self._round.participants,
            total=total,
            average=total / number if number else 0.0,
        )


class _Labels:
    """Which label means which round for one client. `base` is the round whose version it trains from."""

    def __init__(self) -> None:
        self.base = 0
        self._label = 0
        self._offset = 0
        self._current: int | None = None
        self._meaning: dict[int, int] = {}

    def see(self, current: int) -> None:
        """Takes note of the number of the open round."""
        if not self._meaning:
            self.base = self._meaning[0] = current
        elif current < self.base:
            # The data directory was replaced by an older one: what is next must be news to the client all the same.
            self._restart_at(current)
        self._current = current

    def label_of(self, number: int) -> int:
        return max(number + self._offset, 0)

    def peek(self, label: int) -> int:
        """The round that a label means, for what does not depend on it being exact."""
        return self._meaning.get(label, max(label - self._offset, 0))

    def round_of(self, label: int) -> int:
        """The round from whose version a contribution under `label` was trained."""
        assert self._current is not None, "labels mean nothing before the first round was seen"
        number = self.peek(label)
        if label not in self._meaning and number > self._current:
            self._label = label
            self._restart_at(self._current)
            return self._current
        if label >= self._label:
            self._remember(label, number)
        return number

    def give_out(self, version: int) -> int:
        """The label under which the client is told `version`; its own where the version is no news to it."""
        if version > self.base:
            self._remember(self.label_of(version), version)
        return self._label

    def _restart_at(self, number: int) -> None:
        self._offset = self._label - number
        self._remember(self._label, number)

    def _remember(self, label: int, number: int) -> None:
        self._label, self.base = label, number
        self._meaning.pop(label, None)
        self._meaning[label] = number
        if len(self._meaning) > LABELS_REMEMBERED:
            del self._meaning[next(iter(self._meaning))]


def _difference(given: Shapes, wanted: Shapes) -> str:
    if len(given) != len(wanted):
        return f"they have {len(given)} tensors, the model has {len(wanted)}"
    index, got, shape = next((i, a, b) for i, (a, b) in enumerate(zip(given, wanted, strict=True)) if a != b)
    return f"tensor {index} has the shape {list(got)}, in the model it has {list(shape)}"


def _enqueue(owed: deque[float], now: float) -> None:
    if len(owed) >= MAX_UNANSWERED:
        raise SlowConsumer
    owed.append(now)
