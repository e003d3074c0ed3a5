"""This replica's sum of one open round, in memory and in its two slots.

Knows the blob store; not Redis, and not which contributions are admitted.

The slots are written in turn, always the one that the committed pointer does not
name. Every sum has a name of its own, given once and never again, under which its slots
and its pointer are kept: so where nobody can say whether a commit happened, the
sum is left as it is and another one, empty, is begun beside it. What the old pointer
names is then never written again, whenever that commit takes effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from blobstore import names
from blobstore.store import BlobStore, Buffer
from learning.federated import RoundStatus
from learning.ids import ReplicaId
from learning.refusals import StoreUnavailable
from roundstore.store import SumPointer
from services.aggregator.collection import Member, OfOneRound
from services.aggregator.exact_sums import PartialSum, SumDigest
from services.aggregator.off_loop import off_loop
from services.aggregator.sum_plan import SumPlan


class OpenSum(OfOneRound):
    """The sum of what this replica admits to one round."""

    def __init__(self, blobs: BlobStore, status: RoundStatus, plan: SumPlan, *, name: ReplicaId) -> None:
        super().__init__(status)
        self.plan = plan
        self._blobs = blobs
        self._name = name
        self._sum = PartialSum(plan)
        self._free_slot = 0

    @property
    def size(self) -> int:
        """Bytes that are written with every commit."""
        return 8 * (self.plan.size + self.plan.low_size)

    @property
    def room(self) -> int:
        """Weight that may still be added."""
        return self.plan.weight_cap - self._sum.total_weight

    async def fold(self, group: Sequence[Member]) -> None:
        await off_loop(_size(group), self._fold, group)

    async def take_out(self, group: Sequence[Member]) -> None:
        """Undoes `fold` for some of its members, exactly."""
        await off_loop(_size(group), self._take_out, group)

    async def write(self) -> SumPointer:
        """Writes the free slot; the pointer to it.

        Raises StoreUnavailable; the slot may then be written yet, so the sum must not be used any more.
        """
        blob = names.partial_sum(self._task_id, self._number, self._name, self._free_slot)
        parts = self._sum.to_parts(epoch=self._epoch, round=self._number)
        digest = _digest(parts)
        try:
            await self._blobs.write_slot(blob, parts)
        except StoreUnavailable:
            with suppress(StoreUnavailable):
                await self._blobs.delete(blob)  # the store may be full, and nobody will read it
            raise
        return SumPointer(
            replica_id=self._name,
            blob=blob,
            digest=digest,
            contributions=self._sum.contributions,
            total_weight=self._sum.total_weight,
        )

    def committed(self) -> None:
        """The pointer names what was written last; the other slot is free."""
        self._free_slot = 1 - self._free_slot

    def _fold(self, group: Sequence[Member]) -> None:
        for member in group:
            self._sum.add(member.weights, member.weight)

    def _take_out(self, group: Sequence[Member]) -> None:
        for member in group:
            self._sum.subtract(member.weights, member.weight)


def _size(group: Sequence[Member]) -> int:
    return sum(memoryview(member.weights).nbytes for member in group)


def _digest(parts: Sequence[Buffer]) -> str:
    digest = SumDigest()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
