"""What one participant contributed: what is on its way, and which answer is owed for it.

One contribution is submitted at a time and one may wait. Clients that wait for an
answer have at most one owed to them: who contributes again has stopped waiting.
When they get it is the table in `gateway.sessions.federated`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from gateway.dialects.manners import Answering, Manners
from gateway.dialects.messages import Contribute, Shapes
from gateway.sessions.federated_terms import RoundView, SubmitContribution
from gateway.sessions.labels import Labels
from learning.refusals import (
    DiscoError,
    DuplicateContribution,
    InvalidWeights,
    RoundStale,
    ShuttingDown,
    SlowConsumer,
    StoreUnavailable,
    WeightCapReached,
)

READ_WITHIN_S = 1.5
"""How long before a client's limit the version for its answer is asked for, at the latest."""


@dataclass(slots=True)
class Owed:
    """The answer to a contribution. `news_from` is the first version that is news to its sender; None: not known."""

    label: int
    hold_until: float | None
    news_from: int | None

    def has_news(self, round: RoundView | None) -> bool:
        return round is not None and self.news_from is not None and round.version >= self.news_from

    def is_at_its_limit(self, now: float) -> bool:
        return self.hold_until is not None and now >= self.hold_until


@dataclass(frozen=True, slots=True)
class _Pending:
    """A contribution on its way. `base` is the version it was trained from, where that is known already."""

    contribution: Contribute
    owed: Owed | None
    base: int | None
    round: int = 0
    """The round that was collecting when it was submitted."""


class Contributions:
    """Those of one participant."""

    def __init__(self, shapes: Shapes, manners: Manners) -> None:
        self._shapes = shapes
        self._manners = manners
        self._waiting: deque[_Pending] = deque()
        self._submitted: _Pending | None = None
        self.owed: Owed | None = None
        self.counted_in = -1
        """The last round in which one of them is counted."""

    @property
    def are_settled(self) -> bool:
        return self._submitted is None and not self._waiting

    def add(self, contribution: Contribute, now: float, *, base: int | None) -> None:
        """Raises InvalidWeights, SlowConsumer; an answer is owed all the same. `base` is what the client adopted last,
        None where no round was seen yet."""
        owed = self.owe(contribution.round, now)
        if contribution.shapes != self._shapes:
            raise InvalidWeights(problem=_difference(contribution.shapes, self._shapes))
        if self._waiting:
            # What a client can have in flight without running ahead of us is one on its way and one that waits.
            raise SlowConsumer
        if owed is not None:
            owed.news_from = None
        self._waiting.append(_Pending(contribution, owed, base))

    def owe(self, label: int, now: float) -> Owed | None:
        """An answer to a contribution that will not be counted; None where the client waits for none."""
        if self._manners.answering is Answering.NOTHING:
            return None
        limit = self._manners.answer_within_s
        self.owed = Owed(label, None if limit is None else now + limit - READ_WITHIN_S, news_from=0)
        return self.owed

    def submit_next(self, round: RoundView, labels: Labels) -> SubmitContribution | None:
        """In order, one at a time."""
        if self._submitted is not None or not self._waiting:
            return None
        pending = self._waiting.popleft()
        self._submitted = replace(pending, round=round.number)
        if pending.owed is None:
            base = labels.round_of(pending.contribution.round)
        else:
            # A client that adopts what it is answered trained from that, whatever number it has for it.
            base = min(labels.base if pending.base is None else pending.base, round.number)
        return SubmitContribution(base, pending.contribution.weights)

    def settle(self, counted_in: int | None, error: DiscoError | None) -> None:
        """What became of the one that was submitted."""
        settled, self._submitted = self._submitted, None
        if counted_in is not None:
            self.counted_in = counted_in
        if settled is None or settled.owed is None or settled.owed is not self.owed:
            return  # nobody waits for an answer to it
        match error:
            case None:
                settled.owed.news_from = (settled.round if counted_in is None else counted_in) + 1
            case StoreUnavailable() | ShuttingDown():
                self._waiting.appendleft(settled)
            case RoundStale():
                settled.owed.news_from = int(error.variables["current_round"])
            case DuplicateContribution() | WeightCapReached():
                settled.owed.news_from = settled.round + 1
            case _:
                settled.owed.news_from = 0

    def forget_round(self, round: RoundView) -> None:
        """The store has lost the round that it acknowledged a contribution for, and goes on with `round`."""
        if self.owed is not None and self.owed.news_from is not None:
            self.owed.news_from = 0
        if self._submitted is not None:
            self._submitted = replace(_based_on_what_is_left(self._submitted, round), round=round.number)
        self._waiting = deque(_based_on_what_is_left(pending, round) for pending in self._waiting)
        self.counted_in = -1

    def drop_answer(self) -> None:
        """It is given, or its client is gone."""
        self.owed = None

    def drop_waiting(self) -> None:
        self._waiting.clear()


def _based_on_what_is_left(pending: _Pending, round: RoundView) -> _Pending:
    """The version it was trained from may be lost; rounds that close from now on make it late all the same."""
    return pending if pending.base is None else replace(pending, base=min(pending.base, round.number))


def _difference(given: Shapes, wanted: Shapes) -> str:
    if len(given) != len(wanted):
        return f"they have {len(given)} tensors, the model has {len(wanted)}"
    index, got, shape = next((i, a, b) for i, (a, b) in enumerate(zip(given, wanted, strict=True)) if a != b)
    return f"tensor {index} has the shape {list(got)}, in the model it has {list(shape)}"
