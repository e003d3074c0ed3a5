"""One participant's socket in a federated task, without the socket.

Knows no gRPC, no frames, no clock and no dialect: messages and events go in,
messages and calls come out, `now` is passed in, and what differs between clients
is in their `Manners`. After everything that goes in, whoever drives the session
drains `take_messages` and `take_calls`, and calls `tick` no later than `wake_at`.

    in    receive(message) · deliver(event) · tick · lost
    out   take_messages · take_calls · wake_at

    state      Hello          other messages   lost
    ─────────  ─────────────  ───────────────  ────────────────────────────────────────
    CONNECTED  → JOINED       refused          → LEFT
    JOINED     welcome again  handled          → LEAVING
    LEAVING    –              –                → LEFT when its contributions are settled
    LEFT       –              –                –

Some clients pull the newest version when they want it; the others wait for it as
the answer to their contribution, some of them without end. Those get it

    counted in a round             when that round has closed
    refused because it is stale    once the round that was collecting is seen
    this round takes no more of    when this round has closed
      it (counted already, full)
    refused for what it is (NaN,   at once: it trains from the newest version, and its next contribution may still
      shapes, bound)                 be counted in this round, which may be waiting for nobody else
    nobody can say                 it is submitted again, for as long as the client waits
    the store forgot the round     at once: what was counted in it is gone
    the client's limit is near     at once, whatever is newest
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from gateway.dialects.manners import Answering, Manners
from gateway.dialects.messages import (
    ClientMessage,
    Contribute,
    ContributionAnswer,
    EncodedWeights,
    EnoughParticipants,
    Hello,
    JoinRound,
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
    UnusableContribution,
    VersionedWelcome,
    Welcome,
)
from gateway.sessions.contributions import READ_WITHIN_S, Contributions
from gateway.sessions.federated_terms import (
    Call,
    ContributionSettled,
    Event,
    Joined,
    JoinTask,
    LeaveTask,
    MetadataRead,
    NoteRefusal,
    ReadMetadata,
    ReadVersion,
    RoundSeen,
    RoundView,
    StoreMetadata,
    VersionRead,
    VersionUnavailable,
)
from gateway.sessions.labels import Labels
from learning.refusals import InvalidWeights, MalformedMessage, SlowConsumer

ANSWER_WITHIN_S = 9.0
"""The clients give an answer up after 10 seconds, or later."""
READ_AGAIN_S = 1.0
MAX_UNANSWERED = 8
"""Pulls of one kind that may wait for their answer at the same time."""


class State(Enum):
    CONNECTED = "connected"
    JOINED = "joined"
    LEAVING = "leaving"
    LEFT = "left"


class FederatedSession:
    """See the module's docstring."""

    def __init__(
        self, task_id: str, participant_id: str, *, shapes: Shapes, manners: Manners, poll_hold_s: float
    ) -> None:
        self._task_id = task_id
        self._participant_id = participant_id
        self._manners = manners
        self._poll_hold_s = min(poll_hold_s, ANSWER_WITHIN_S)
        self.state = State.CONNECTED
        self._round: RoundView | None = None
        self._join_is_settled = False
        self._labels = Labels()
        self._contributions = Contributions(shapes, manners)
        self._reading = False
        self._read_from = 0.0
        self._hellos: deque[float] = deque()
        self._statistics: deque[float] = deque()
        self._pulls: deque[float] = deque()
        self._must_wait = False
        self._calls: list[Call] = []
        self._messages: list[ServerMessage] = []

    # In.

    def receive(self, message: ClientMessage, now: float) -> None:
        """Raises MalformedMessage, InvalidWeights or SlowConsumer; that costs the message only."""
        if self.state is State.CONNECTED and not isinstance(message, Hello):
            raise MalformedMessage(problem="the client has not introduced itself yet")
        try:
            self._handle(message, now)
        finally:
            self._proceed(now)

    def deliver(self, event: Event, now: float) -> None:
        match event:
            case Joined(round) | RoundSeen(round):
                # The watch may show a round in which this participant is not counted yet.
                self._join_is_settled |= isinstance(event, Joined)
                if self._round is not None and _is_from_before(round, self._round):
                    self._contributions.forget_round(round)
                self._round = round
                self._labels.see(round.number)
            case ContributionSettled(counted_in, error):
                self._contributions.settle(counted_in, error)
            case VersionRead(version, weights):
                self._reading = False
                self._answer_pulls(version, weights)
                self._welcome_with(version, weights)
                self._answer_contribution(version, weights, now)
            case VersionUnavailable():
                # Nothing true can be said. Who pulls gives up by itself at its own limit; for the others, it is tried
                # again.
                self._reading = False
                self._pulls.clear()
                if self._hellos or self._contributions.owed is not None:
                    self._read_from = now + READ_AGAIN_S
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
        self._contributions.drop_answer()
        if self._round is None:
            self._contributions.drop_waiting()
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
        moments = [self._statistics[0] + ANSWER_WITHIN_S] if self._statistics else []
        if self._hellos and not self._manners.welcome_holds_version:
            moments.append(self._hellos[0] + ANSWER_WITHIN_S)
        if not self._reading and (reads := self._read_moments()):
            moments.append(max(min(reads), self._read_from))
        return min(moments, default=None)

    def _read_moments(self) -> list[float]:
        """When versions must be asked for, as far as that hangs on the clock."""
        moments = [self._pulls[0] + self._poll_hold_s] if self._pulls else []
        if self._hellos and self._manners.welcome_holds_version:
            moments.append(self._read_from if self._sees_itself() else self._hellos[0] + ANSWER_WITHIN_S)
        owed = self._contributions.owed
        if owed is not None and owed.has_news(self._round):
            moments.append(self._read_from)
        elif owed is not None and owed.hold_until is not None:
            moments.append(owed.hold_until)
        return moments

    # What the client says.

    def _handle(self, message: ClientMessage, now: float) -> None:
        match message:
            case Hello():
                if self.state is State.CONNECTED:
                    self.state = State.JOINED
                    self._calls.append(JoinTask())
                _enqueue(self._hellos, now)
            case Contribute():
                self._contribute(message, now)
            case UnusableContribution(label, refusal):
                self._contributions.owe(label, now)
                self._calls.append(NoteRefusal(self._labels.peek(label), refusal))
                raise refusal
            case PullStatistics():
                _enqueue(self._statistics, now)
            case PullLatest():
                _enqueue(self._pulls, now)
            case PutMetadata(label, key, value):
                self._calls.append(StoreMetadata(self._labels.peek(label), key, value))
            case PullMetadata(label, key):
                self._calls.append(ReadMetadata(self._labels.peek(label), key, label))
            case JoinRound() | MarkReady() | SignalTo():
                raise MalformedMessage(problem="peers are not introduced to each other in a federated task")

    def _contribute(self, contribution: Contribute, now: float) -> None:
        try:
            self._contributions.add(contribution, now, base=self._labels.base if self._round is not None else None)
        except InvalidWeights as refusal:
            self._calls.append(NoteRefusal(self._labels.peek(contribution.round), refusal))
            raise

    # What follows from what is known.

    def _proceed(self, now: float) -> None:
        if self._round is not None and (submit := self._contributions.submit_next(self._round, self._labels)):
            self._calls.append(submit)
        if self._hellos and now >= self._hellos[0] + ANSWER_WITHIN_S:
            self._join_is_settled = True  # nobody knows; from here on a round that is seen has to do
        if not self._manners.welcome_holds_version and self._is_due(self._hellos, now):
            # Welcome even where the join is still on its way: its lease makes the participant present later.
            self._messages.extend(Welcome(self._participant_id) for _ in self._hellos)
            self._hellos.clear()
        if self._is_due(self._statistics, now):
            self._messages.extend(self._current_statistics() for _ in self._statistics)
            self._statistics.clear()
        if self._must_wait and not self._too_few():
            self._must_wait = False
            self._messages.append(EnoughParticipants())
        self._read_what_is_due(now)
        if self.state is State.LEAVING and self._contributions.are_settled:
            self.state = State.LEFT
            self._calls.append(LeaveTask())

    def _is_due(self, owed: deque[float], now: float) -> bool:
        """What can be answered as soon as a round is known that counts this participant, and must be in any case."""
        return bool(owed) and (self._sees_itself() or now >= owed[0] + ANSWER_WITHIN_S)

    def _sees_itself(self) -> bool:
        return self._round is not None and self._join_is_settled

    def _read_what_is_due(self, now: float) -> None:
        if self._reading or now < self._read_from:
            return
        due = []
        if self._pulls and self._pull_is_due(now):
            due.append(self._pulls[0] + ANSWER_WITHIN_S)
        if self._is_due(self._hellos, now):  # with a version, else it was answered already
            due.append(self._hellos[0] + ANSWER_WITHIN_S)
        owed = self._contributions.owed
        if owed is not None and (owed.has_news(self._round) or owed.is_at_its_limit(now)):
            due.append(now + ANSWER_WITHIN_S if owed.hold_until is None else owed.hold_until + READ_WITHIN_S)
        if due:
            self._reading = True
            version = self._round.version if self._round else 0
            self._calls.append(ReadVersion(version, until=max(now, min(due))))

    def _pull_is_due(self, now: float) -> bool:
        """There is news where a version is newer than the one the client has, and than the round that has its last
        contribution: with less, it would contribute to that round a second time, and be refused."""
        if now >= self._pulls[0] + self._poll_hold_s:
            return True
        known = max(self._labels.base, self._contributions.counted_in)
        return self._contributions.are_settled and self._round is not None and self._round.version > known

    def _answer_pulls(self, version: int, weights: EncodedWeights) -> None:
        """A client adopts an answer only where its number is greater than its own: here, where there is news."""
        if self._pulls:
            label = self._labels.give_out(version)
            self._messages.extend(Latest(label, weights) for _ in self._pulls)
            self._pulls.clear()

    def _welcome_with(self, version: int, weights: EncodedWeights) -> None:
        if self._hellos:
            label = self._labels.adopt(version)
            self._must_wait = self._too_few()
            welcome = VersionedWelcome(self._participant_id, self._must_wait, label, weights, self._participants())
            self._messages.extend(welcome for _ in self._hellos)
            self._hellos.clear()

    def _answer_contribution(self, version: int, weights: EncodedWeights, now: float) -> None:
        owed = self._contributions.owed
        if owed is None or not (owed.has_news(self._round) or owed.is_at_its_limit(now)):
            return
        if not owed.is_at_its_limit(now) and owed.news_from is not None and version < owed.news_from:
            self._read_from = now + READ_AGAIN_S  # an older one was all that could be had
            return
        self._contributions.drop_answer()
        label = self._labels.adopt(version)
        if self._manners.answering is Answering.WITH_ECHO:
            label = owed.label
        self._messages.append(ContributionAnswer(label, weights, self._participants()))

    def _too_few(self) -> bool:
        return self._round is not None and self._round.participants < self._round.min_participants

    def _participants(self) -> int:
        return max(1, self._round.participants) if self._round is not None else 1

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


def _is_from_before(round: RoundView, known: RoundView) -> bool:
    """Whether the store went back to an earlier state: both only grow otherwise."""
    return round.revision < known.revision or round.number < known.number


def _enqueue(owed: deque[float], now: float) -> None:
    if len(owed) >= MAX_UNANSWERED:
        raise SlowConsumer
    owed.append(now)
