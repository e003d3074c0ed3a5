"""The contributions to one open round that this replica admits, each in a blob: for rules that need every single one.

Knows the blob store; not Redis, and not which contributions are admitted.

A contribution's blob is named by its digest, so it has the same bytes whoever writes it
and however often, and none is ever changed, nor written again where it is whole: it may
have been acknowledged, and be safe from a loss of power already. There are no slots: what the
admissions name is there because it was written before they were committed, and what they do not
name is deleted with the round. The committed pointer names the folder, counts, and is asked by nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from blobstore import names
from blobstore.store import BlobStore
from learning.federated import RoundStatus
from learning.ids import ReplicaId
from roundstore.store import SumPointer
from services.aggregator.collection import Member, OfOneRound
from services.aggregator.sum_plan import SumPlan


class OpenContributions(OfOneRound):
    """What this replica admits to one round."""

    def __init__(self, blobs: BlobStore, status: RoundStatus, plan: SumPlan, *, name: ReplicaId) -> None:
        super().__init__(status)
        self.plan = plan
        self._blobs = blobs
        self._name = name
        self._contributions = 0
        self._total_weight = 0
        self._unwritten: list[Member] = []

    @property
    def size(self) -> int:
        """Bytes of one contribution."""
        return 4 * self.plan.size

    @property
    def room(self) -> int:
        return self.plan.weight_cap - self._total_weight

    async def fold(self, group: Sequence[Member]) -> None:
        self._count(group, 1)
        self._unwritten += group

    async def take_out(self, group: Sequence[Member]) -> None:
        """Their blobs may be written already, and stay: an admission of the same weights may name them."""
        self._count(group, -1)

    async def write(self) -> SumPointer:
        # All of them to their end, so that nothing of a write that failed comes later than the answer.
        outcomes = await asyncio.gather(
            *(
                self._blobs.keep(
                    names.contribution(self._task_id, self._number, member.digest),
                    [member.weights],
                    digest=member.digest,
                )
                for member in self._unwritten
            ),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if outcome is not None:
                raise outcome
        self._unwritten.clear()
        return SumPointer(
            replica_id=self._name,
            blob=names.contributions_of_round(self._task_id, self._number),
            digest="",
            contributions=self._contributions,
            total_weight=self._total_weight,
        )

    def committed(self) -> None:
        """There is nothing to be told apart: every blob stays what it is."""

    def _count(self, group: Sequence[Member], sign: int) -> None:
        self._contributions += sign * len(group)
        self._total_weight += sign * sum(member.weight for member in group)
