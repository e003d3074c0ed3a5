"""The contributions of all tasks at one replica: a committer for each task that has any.

Knows which committers there are; nothing of what they do.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from blobstore.store import BlobStore
from learning.federated import Admission, RoundStatus
from learning.ids import ReplicaId, TaskId
from learning.refusals import ShuttingDown, StoreUnavailable, TaskNotFound
from roundstore.store import RoundStore, SumPointer
from services.aggregator.changes import Changes
from services.aggregator.collection import Collection
from services.aggregator.committer import Committer
from services.aggregator.counted import Counted
from services.aggregator.exact_sums import PartialSum
from services.aggregator.metrics import AggregatorMetrics
from services.aggregator.norms import Norms
from services.aggregator.offers import Offered
from services.aggregator.open_clipped_sums import OpenClippedSum
from services.aggregator.open_contributions import OpenContributions
from services.aggregator.open_sums import OpenSum
from services.aggregator.privacy_accounts import PrivacyAccounts
from services.aggregator.rounds import Rounds

ANSWER_S = 60.0


class Intake:
    """Takes contributions in and answers with their admissions."""

    def __init__(
        self,
        store: RoundStore,
        blobs: BlobStore,
        *,
        rounds: Rounds,
        accounts: PrivacyAccounts,
        counted: Counted,
        changes: Changes,
        replica_id: ReplicaId,
        metrics: AggregatorMetrics,
        clock: Callable[[], float],
        answer_s: float = ANSWER_S,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._rounds = rounds
        self._accounts = accounts
        self._counted = counted
        self._changes = changes
        self._replica_id = replica_id
        self._metrics = metrics
        self._clock = clock
        self._answer_s = answer_s
        self._norms = Norms(store, blobs, rounds)
        self._sums_begun = itertools.count()
        self._committers: dict[TaskId, Committer] = {}

    async def admit(self, task_id: TaskId, offered: Offered) -> Admission:
        """The contribution's admission, once it is durable. Raises its refusal; StoreUnavailable where that takes long.

        Where the caller is cancelled or given StoreUnavailable, the contribution may be admitted all the same.
        """
        committer = self._committer(task_id)
        committer.offer(offered)
        try:
            async with asyncio.timeout(self._answer_s):
                return await offered.answer
        except TimeoutError:
            raise StoreUnavailable from None
        finally:
            committer.withdraw(offered)

    @contextmanager
    def arriving(self, task_id: TaskId) -> Iterator[None]:
        """Around the upload of a contribution that will be offered."""
        with self._committer(task_id).arriving():
            yield

    def look(self, status: RoundStatus) -> None:
        """Lets go of what is no longer needed now that the round stands so."""
        committer = self._committers.get(status.task_id)
        if committer is None:
            return
        committer.look(status, closes=status.closer == self._replica_id)
        if committer.is_idle:
            del self._committers[status.task_id]

    def take_sum(self, task_id: TaskId, pointer: SumPointer) -> PartialSum | None:
        """The sum that this pointer names, where this replica still has it in memory; it is the caller's then."""
        committer = self._committers.get(task_id)
        return committer.take_sum(pointer) if committer else None

    def forget(self, task_id: TaskId) -> None:
        """Ends what is kept of a task that was deleted."""
        if committer := self._committers.pop(task_id, None):
            committer.stop(TaskNotFound(task_id=task_id))

    def stop(self) -> None:
        """Ends all committers; those who wait are sent to another replica."""
        for committer in self._committers.values():
            committer.stop(ShuttingDown())
        self._committers.clear()

    def _committer(self, task_id: TaskId) -> Committer:
        if task_id not in self._committers:
            self._committers[task_id] = Committer(
                task_id,
                store=self._store,
                rounds=self._rounds,
                changes=self._changes,
                norms=self._norms,
                counted=self._counted,
                begin=self._begin,
                metrics=self._metrics,
                clock=self._clock,
            )
        return self._committers[task_id]

    async def _begin(self, status: RoundStatus) -> Collection:
        """Raises what `Rounds.plan` and `PrivacyAccounts.standing` raise."""
        known, plan = await self._rounds.task(status.task_id), await self._rounds.plan(status)
        name = ReplicaId(f"{self._replica_id}-{next(self._sums_begun)}")
        privacy, standing = known.aggregation.privacy, await self._accounts.standing(status)
        if privacy is not None and standing is not None:
            return OpenClippedSum(self._blobs, status, plan, name=name, privacy=privacy, standing=standing)
        kind = OpenContributions if known.aggregation.needs_contributions else OpenSum
        return kind(self._blobs, status, plan, name=name)
