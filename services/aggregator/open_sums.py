"""This replica's sum of one open round, in memory and in its slots.

Knows the blob store; not Redis, and not which contributions are admitted.

The slots are written in turn, always the one that the committed pointer does not
name. Every sum has a name of its own, given once and never again, under which its slots
and its pointer are kept: so where nobody can say whether a commit happened, the
sum is left as it is and another one, empty, is begun beside it. What the old pointer
names is then never written again, whenever that commit takes effect.

Two slots are enough for a kill. After a loss of power the newest pointer that Redis still knows
may be one of a second ago, and its slot written over since, or its slot may not have reached the disk.
So now and then one is left alone for a while, in a slot of its own, and every pointer
names the states of the sum that are still there: the newest of them that can be read is what is left then.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from blobstore import names
from blobstore.store import BlobStore, Buffer
from learning.federated import RoundStatus
from learning.ids import ReplicaId
from learning.refusals import StoreUnavailable
from roundstore.store import SumPointer
from rpc.off_loop import side_by_side
from services.aggregator.collection import Member, OfOneRound
from services.aggregator.exact_sums import PartialSum, SumDigest
from services.aggregator.sum_plan import SumPlan

APART_S = 0.5
"""So much more than the last second a loss of power may take, of a sum that grows all the time."""
SAFE_S = 2.5
"""A second until it is synced, and time to do it in."""


@dataclass(slots=True)
class _Kept:
    """A state of the sum that is in a slot."""

    slot: int
    pointer: SumPointer
    committed_at: float
    is_alone: bool = False
    """Whether it stays when the pointer has gone on, until a newer one that stays is safe."""


class OpenSum(OfOneRound):
    """The sum of what this replica admits to one round."""

    def __init__(self, blobs: BlobStore, status: RoundStatus, plan: SumPlan, *, name: ReplicaId) -> None:
        super().__init__(status)
        self.plan = plan
        self._blobs = blobs
        self._name = name
        self._sum = PartialSum(plan)
        self._written: tuple[int, SumPointer] | None = None
        self._kept: list[_Kept] = []
        """The newest first, which the committed pointer names."""
        self._alone_until = asyncio.get_running_loop().time()
        """What was committed up to here is in a state that is left alone; at first, that is nothing."""

    @property
    def size(self) -> int:
        """Bytes that are written with every commit."""
        return 8 * (self.plan.size + self.plan.low_size)

    @property
    def room(self) -> int:
        """Weight that may still be added."""
        return self.plan.weight_cap - self._sum.total_weight

    def take(self, pointer: SumPointer) -> PartialSum | None:
        """The sum, where it is what the pointer names and nothing more: the caller's from now on."""
        if not self._kept or (self._kept[0].pointer.blob, self._kept[0].pointer.digest) != (
            pointer.blob,
            pointer.digest,
        ):
            return None
        holds = self._sum.contributions, self._sum.total_weight
        return self._sum if holds == (pointer.contributions, pointer.total_weight) else None

    async def fold(self, group: Sequence[Member]) -> None:
        adding = self._sum.begin_adding([(member.weights, member.weight) for member in group])
        await side_by_side(_size(group), adding.pieces)

    async def take_out(self, group: Sequence[Member]) -> None:
        """Undoes `fold` for some of its members, exactly."""
        taken_out = [(member.weights, member.weight) for member in group]
        await side_by_side(_size(group), self._sum.begin_subtracting(taken_out).pieces)

    async def write(self) -> SumPointer:
        """Writes the free slot; the pointer to it.

        Raises StoreUnavailable; the slot may then be written yet, so the sum must not be used any more.
        """
        taken = {kept.slot for kept in self._kept}
        slot = next(slot for slot in itertools.count() if slot not in taken)
        blob = names.partial_sum(self._task_id, self._number, self._name, slot)
        parts = self._sum.to_parts(epoch=self._epoch, round=self._number)
        digest = _digest(parts)
        try:
            await self._blobs.write_slot(blob, parts)
        except StoreUnavailable:
            with suppress(StoreUnavailable):
                await self._blobs.delete(blob)  # the store may be full, and nobody will read it
            raise
        pointer = SumPointer(
            replica_id=self._name,
            blob=blob,
            digest=digest,
            contributions=self._sum.contributions,
            total_weight=self._sum.total_weight,
        )
        self._written = slot, pointer
        return replace(pointer, earlier=tuple(kept.pointer for kept in self._kept))

    def committed(self) -> None:
        """The pointer names what was written last; of what it named before, some is left alone."""
        assert self._written is not None, "what is committed was written"
        now = asyncio.get_running_loop().time()
        # The one that the pointer has named until now, where too much has come since the last that is left alone.
        if self._kept and now >= self._alone_until + APART_S:
            self._kept[0].is_alone, self._alone_until = True, self._kept[0].committed_at
        alone = [kept for kept in self._kept if kept.is_alone]
        unsafe = [kept for kept in alone if now < kept.committed_at + SAFE_S]
        self._kept = [_Kept(*self._written, committed_at=now), *alone[: len(unsafe) + 1]]


def _size(group: Sequence[Member]) -> int:
    return sum(memoryview(member.weights).nbytes for member in group)


def _digest(parts: Sequence[Buffer]) -> str:
    digest = SumDigest()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
