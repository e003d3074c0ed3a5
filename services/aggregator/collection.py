"""What a replica has collected of one open round: the shape of it, whether it is a sum or the contributions themselves.

Knows no store and no number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from blobstore.store import Buffer
from learning.federated import RoundStatus, State
from roundstore.store import SumPointer
from rpc.off_loop import off_loop
from services.aggregator.sum_plan import SumPlan


class Member(Protocol):
    """A contribution as a collection sees it."""

    @property
    def digest(self) -> str: ...

    @property
    def base_round(self) -> int: ...

    @property
    def weights(self) -> Buffer: ...

    @property
    def weight(self) -> int: ...


class OfOneRound:
    """What belongs to one round and to no other."""

    plan: SumPlan

    def __init__(self, status: RoundStatus) -> None:
        self._task_id = status.task_id
        self._epoch = status.epoch
        self._number = status.number

    def takes(self, status: RoundStatus) -> bool:
        """Whether it is of that round, and that round still collects."""
        return status.epoch == self._epoch and status.number == self._number and status.state is State.COLLECTING

    def is_over(self, status: RoundStatus) -> bool:
        """Whether its round collects no more, to judge from a status that may be older than the collection."""
        return status.epoch == self._epoch and status.number >= self._number and not self.takes(status)

    async def check(self, member: Member) -> None:
        """Refuses what may not be added. Raises InvalidWeights, WeightsNotFinite, WeightsOutOfBound."""
        await off_loop(memoryview(member.weights).nbytes, self.plan.check, member.weights)


class Collection(Protocol):
    """What a committer folds groups into, writes and commits."""

    plan: SumPlan

    def takes(self, status: RoundStatus) -> bool: ...

    def is_over(self, status: RoundStatus) -> bool: ...

    @property
    def size(self) -> int:
        """Bytes that are written with every commit, at least."""

    @property
    def room(self) -> int:
        """Weight that may still be added."""

    async def check(self, member: Member) -> None:
        """Raises the refusal of what may not be added."""

    async def fold(self, group: Sequence[Member]) -> None: ...

    async def take_out(self, group: Sequence[Member]) -> None:
        """Undoes `fold` for some of its members."""

    async def write(self) -> SumPointer:
        """Writes what was folded; the pointer to it. After StoreUnavailable the collection must not be used again."""

    def committed(self) -> None:
        """The pointer was committed."""
