"""How much of its privacy budget a task has spent: by the ledger, so that nothing is given back that Redis forgets.

A version of which the ledger says nothing has come to nothing yet. What is restored has no noise of its
own and adds nothing; what was spent stays spent. Knows entries; the numbers are `privacy.accountant`'s.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from blobstore import records
from blobstore.records import LedgerEntry, PrivacyAccount
from blobstore.store import BlobStore
from learning.federated import RoundStatus
from learning.ids import TaskId
from learning.privacy import CentralPrivacy
from learning.refusals import PrivacyBudgetSpent
from privacy.accountant import epsilon_of
from services.aggregator.rounds import MAX_CACHED_TASKS, Rounds


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a round stands with the budget of its task."""

    account: PrivacyAccount
    """Of the versions up to the one that it starts from."""
    next_epsilon: float
    """What one more would come to."""

    @property
    def is_spent(self) -> bool:
        """Whether one more would be too much."""
        return self.next_epsilon > self.account.epsilon_budget

    def refusal(self, task_id: TaskId) -> PrivacyBudgetSpent:
        account = self.account
        return PrivacyBudgetSpent(
            task_id=task_id,
            epsilon=f"{account.epsilon:g}",
            delta=f"{account.delta:g}",
            epsilon_budget=f"{account.epsilon_budget:g}",
        )


class PrivacyAccounts:
    """Those of all tasks."""

    def __init__(self, blobs: BlobStore, rounds: Rounds) -> None:
        self._blobs = blobs
        self._rounds = rounds
        self._newest: dict[TaskId, tuple[tuple[str, int], Standing]] = {}

    async def standing(self, status: RoundStatus) -> Standing | None:
        """None where the task asks for no privacy. Raises PrivacyNotAccounted, StoredDataDamaged."""
        task_id, key = status.task_id, (status.epoch, status.number)
        privacy = (await self._rounds.task(task_id)).aggregation.privacy
        if privacy is None:
            return None
        known = self._newest.get(task_id)
        if known is not None and known[0] == key:
            return known[1]
        entry = await records.read_ledger_entry(self._blobs, task_id, status.number)
        standing = await asyncio.to_thread(
            _standing, privacy, _noisy_versions(entry)
        )  # the first one imports a library
        if len(self._newest) >= MAX_CACHED_TASKS:
            self._newest.clear()  # they are read again
        self._newest[task_id] = key, standing
        return standing

    async def check(self, status: RoundStatus) -> None:
        """Raises PrivacyBudgetSpent where the version that the round would make is too much; as `standing`."""
        standing = await self.standing(status)
        if standing is not None and standing.is_spent:
            raise standing.refusal(status.task_id)

    async def after(self, base: LedgerEntry, privacy: CentralPrivacy) -> PrivacyAccount:
        """What a version with noise of its own states that follows on `base`. Raises PrivacyNotAccounted."""
        return await asyncio.to_thread(_account, privacy, _noisy_versions(base) + 1)


def _noisy_versions(entry: LedgerEntry) -> int:
    return entry.privacy.noisy_versions if entry.privacy else 0


def _account(privacy: CentralPrivacy, noisy_versions: int) -> PrivacyAccount:
    return PrivacyAccount(
        clipping_norm=privacy.clipping_norm,
        noise_multiplier=privacy.noise_multiplier,
        delta=privacy.delta,
        epsilon_budget=privacy.epsilon_budget,
        noisy_versions=noisy_versions,
        epsilon=epsilon_of(privacy, noisy_versions),
    )


def _standing(privacy: CentralPrivacy, noisy_versions: int) -> Standing:
    return Standing(_account(privacy, noisy_versions), epsilon_of(privacy, noisy_versions + 1))
