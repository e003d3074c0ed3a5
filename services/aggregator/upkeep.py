"""What nobody calls for and nothing waits for: what is old or ended is deleted, the policy is what was written.

Knows when nothing of that (the coordinator does). Any replica may do any of it at any
time, also two at once.

What a round leaves behind stays until its version is safe from a loss of power: should that take
the version, the round is closed once more from what it left.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial

import structlog

from blobstore import names, policies, retention, task_updates
from blobstore.store import BlobStore
from learning.aggregation import AggregationRule
from learning.federated import RoundStatus
from learning.ids import TaskId
from learning.refusals import StoredDataDamaged, StoreUnavailable, TaskNotFound
from roundstore.store import RoundStore
from services.aggregator.rounds import Rounds

SAFE_S = 2.5
"""A second until a version is synced, and time to do it in."""
_log = structlog.stdlib.get_logger("aggregator")


class Upkeep:
    """`kept_versions`: how many of the newest versions keep their weights; 0: all."""

    def __init__(
        self,
        store: RoundStore,
        blobs: BlobStore,
        *,
        rounds: Rounds,
        kept_versions: int,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._rounds = rounds
        self._kept_versions = kept_versions
        self._clock = clock
        self._swept: dict[TaskId, int] = {}
        self._met: dict[TaskId, deque[tuple[float, int]]] = {}

    async def sweep(self, status: RoundStatus) -> bool:
        """Deletes what rounds before this one left behind; whether that was all, or some is to be left for a while."""
        task_id, number = status.task_id, self._safe_round(status)
        await self._sweep_before(names.sums(task_id), names.sums_of_round(task_id, number))
        if (await self._rounds.task(task_id)).aggregation.rule is not AggregationRule.MEAN:
            await self._sweep_before(names.contributions(task_id), names.contributions_of_round(task_id, number))
            await self._sweep_before(names.rule_states(task_id), names.rule_states_of_version(task_id, number))
        await self._sweep_weights(status, number)
        await self.settle_policy(status)
        return number == status.number

    def _safe_round(self, status: RoundStatus) -> int:
        """The newest round that was met so long ago that the version it stands on is safe."""
        now, met = self._clock(), self._met.setdefault(status.task_id, deque([(-math.inf, 0)]))
        if met[-1][1] > status.number:
            met.clear()  # it went back
            met.append((-math.inf, 0))
        if met[-1][1] < status.number:
            met.append((now, status.number))
        while len(met) > 1 and met[1][0] <= now - SAFE_S:
            met.popleft()
        return met[0][1]

    async def ended(self, task_id: TaskId) -> bool:
        """Whether the task was deleted; its round is dropped then.

        A record that is missing is not enough: a volume that is not mounted must cost nothing that was acknowledged.
        """
        try:
            await self._rounds.task(task_id)
        except (StoredDataDamaged, StoreUnavailable):
            return False
        except TaskNotFound:
            if not await task_updates.is_deleted(self._blobs, task_id):
                raise
            await self._store.drop_round(task_id)
            _log.info("round.dropped", task_id=task_id)
            return True
        return False

    async def _sweep_before(self, folder: str, this: str) -> None:
        for blob in await self._blobs.list(folder):
            if blob < this:
                await self._blobs.delete(blob)

    async def settle_policy(self, status: RoundStatus) -> RoundStatus:
        """Makes the policy that was written last the one in force; the round then.

        It is read again after every change: of two that settle at once, the one who
        comes last to the round store has seen what was written last.
        """
        task_id = status.task_id
        while True:
            change = await policies.newest(self._blobs, task_id)
            if change is None or change.policy == status.policy:
                return status
            put_in_force = partial(self._store.set_policy, task_id, change.policy, now=self._clock())
            status = await self._rounds.changed(task_id, put_in_force)
            self._rounds.saw(status)
            _log.info("policy.changed", task_id=task_id, number=change.number)

    async def _sweep_weights(self, status: RoundStatus, safe: int) -> None:
        oldest = min(status.number - self._kept_versions + 1, safe)
        if not self._kept_versions or oldest <= self._swept.get(status.task_id, 1):
            return
        deleted = await retention.sweep(self._blobs, status.task_id, oldest=oldest)
        self._swept[status.task_id] = oldest
        if deleted:
            _log.debug("weights.deleted", task_id=status.task_id, versions=deleted, oldest=oldest)
