"""This replica's sum of one open round of a task with central privacy: of clipped changes, instead of weights.

All else is as in `services.aggregator.open_sums`. What a contribution changed is what differs
from the version that it started from; a late one needs an older version for that, and is refused
where its weights are no longer kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from blobstore import records
from blobstore.store import BlobStore
from learning.federated import RoundStatus
from learning.ids import ReplicaId
from learning.privacy import CentralPrivacy
from learning.refusals import RoundStale, StoreUnavailable, VersionNotFound
from rpc.off_loop import off_loop
from services.aggregator.collection import Member
from services.aggregator.open_sums import OpenSum
from services.aggregator.privacy_accounts import Standing
from services.aggregator.rules.private_mean import ClippedSum
from services.aggregator.sum_plan import SumPlan

OLDER_BASES = 1
"""How many are held beside the version that the round starts from."""
_BYTES_GONE_OVER = 16
"""For each weight, while it is clipped and added."""


class OpenClippedSum(OpenSum):
    """The sum of the changes that this replica admits to one round."""

    def __init__(
        self,
        blobs: BlobStore,
        status: RoundStatus,
        plan: SumPlan,
        *,
        name: ReplicaId,
        privacy: CentralPrivacy,
        standing: Standing,
    ) -> None:
        super().__init__(blobs, status, plan, name=name)
        self._sum = self._clipped = ClippedSum(plan, privacy)
        self._standing = standing
        self._bases: dict[int, bytes] = {}
        self._reading = asyncio.Lock()

    async def check(self, member: Member) -> None:
        """Raises PrivacyBudgetSpent, RoundStale too."""
        if self._standing.is_spent:
            raise self._standing.refusal(self._task_id)
        await self._base(member.base_round)
        await super().check(member)

    async def fold(self, group: Sequence[Member]) -> None:
        for member in group:
            base = await self._base_again(member.base_round)
            await off_loop(
                _BYTES_GONE_OVER * self.plan.size, self._clipped.add_change, member.weights, base, member.weight
            )

    async def take_out(self, group: Sequence[Member]) -> None:
        for member in group:
            base = await self._base_again(member.base_round)
            await off_loop(
                _BYTES_GONE_OVER * self.plan.size, self._clipped.subtract_change, member.weights, base, member.weight
            )

    async def _base_again(self, number: int) -> bytes:
        """Raises StoreUnavailable where it was deleted since it was checked: sent again, it is judged anew."""
        try:
            return await self._base(number)
        except RoundStale:
            raise StoreUnavailable from None

    async def _base(self, number: int) -> bytes:
        """The weights of a version. Raises RoundStale where they are no longer kept."""
        async with self._reading:  # one at a time: contributions are judged side by side
            return await self._base_in_turn(number)

    async def _base_in_turn(self, number: int) -> bytes:
        if number not in self._bases:
            try:
                entry = await records.read_ledger_entry(self._blobs, self._task_id, number)
                weights = await records.read_weights(self._blobs, self._task_id, entry)
            except VersionNotFound:
                raise RoundStale(round=number, current_round=self._number) from None
            older = [held for held in self._bases if held != self._number]
            for held in older[OLDER_BASES - 1 :] if number != self._number else ():
                del self._bases[held]
            self._bases[number] = weights
        return self._bases[number]
