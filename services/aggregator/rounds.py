"""The rounds of tasks as a replica finds them: opened on the first call, and what follows from their records.

Reads task records, models and versions; caches only the little of them that every call
needs. Knows nothing of contributions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from blobstore import names, policies, records, whole
from blobstore.records import WeightSpec
from blobstore.store import BlobMissing, BlobStore, Buffer
from learning.aggregation import Aggregation
from learning.federated import RoundMoved, RoundStatus
from learning.ids import TaskId
from learning.norm_gate import NormGate
from learning.policy import Policy
from learning.refusals import (
    InvalidWeights,
    StoredDataDamaged,
    StoreUnavailable,
    TaskNotFound,
    VersionNotFound,
    WeightsNotFinite,
    WrongScheme,
)
from learning.task import Scheme
from roundstore.store import RoundStore
from rpc.off_loop import off_loop
from services.aggregator.fresh_versions import FreshVersions
from services.aggregator.rules.private_mean import plan_of_changes
from services.aggregator.sum_plan import SumPlan

MAX_CACHED_TASKS = 4096
CONFIRMED_S = 5.0
"""How long a task is taken to be there still: a deleted one is refused after that at the latest."""
MAX_CACHED_TENSORS = 1 << 20
"""Of all plans together: some 200 MiB at worst, for a model of as many tensors as a million."""

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class KnownTask:
    """What every call needs of a task; none of it ever changes, until the task is deleted."""

    task_id: TaskId
    scheme: Scheme
    policy: Policy
    """As created. A round carries the one in force."""
    weight_specs: tuple[WeightSpec, ...]
    model_bytes: int
    aggregation: Aggregation
    norm_gate: NormGate | None


class Rounds:
    """The rounds of all tasks."""

    def __init__(self, store: RoundStore, blobs: BlobStore, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self.fresh = FreshVersions()
        self._tasks: _Newest[TaskId, KnownTask] = _Newest(MAX_CACHED_TASKS)
        self._confirmed_at: _Newest[TaskId, float] = _Newest(MAX_CACHED_TASKS)
        self._heads = whole.Heads(blobs)
        self._plans: _Newest[tuple[TaskId, str, int, int], SumPlan] = _Newest(MAX_CACHED_TENSORS)
        self._seen: _Newest[TaskId, RoundStatus] = _Newest(MAX_CACHED_TASKS)

    async def task(self, task_id: TaskId) -> KnownTask:
        """Raises TaskNotFound, StoredDataDamaged, StoreUnavailable."""
        known = self._tasks.get(task_id)
        if known is None:
            record = await records.read_task(self._blobs, task_id)
            model = await records.read_model(self._blobs, record)
            known = KnownTask(
                task_id=task_id,
                scheme=record.task.scheme,
                policy=record.task.policy,
                weight_specs=model.weight_specs,
                model_bytes=4 * model.size,
                aggregation=record.task.aggregation_in_force,
                norm_gate=record.task.norm_gate,
            )
            self._tasks.put(task_id, known, cost=1)
            self._confirmed_at.put(task_id, self._clock(), cost=1)
        elif self._clock() >= (self._confirmed_at.get(task_id) or 0.0) + CONFIRMED_S:
            await self._confirm(task_id)
        return known

    async def _confirm(self, task_id: TaskId) -> None:
        """Raises TaskNotFound where the task was deleted since it was read."""
        self._confirmed_at.put(task_id, self._clock(), cost=1)  # before the look, so that one looks for all
        try:
            await self._blobs.size(names.task_record(task_id))
        except BlobMissing:
            self._tasks.drop(task_id)
            raise TaskNotFound(task_id=task_id) from None
        except StoreUnavailable:
            pass  # what is known goes on until the store says otherwise

    async def federated_task(self, task_id: TaskId) -> KnownTask:
        """Raises WrongScheme, and what `task` raises."""
        known = await self.task(task_id)
        if known.scheme is not Scheme.FEDERATED:
            raise WrongScheme(task_id=task_id, scheme=known.scheme.value)
        return known

    async def status(self, task_id: TaskId) -> RoundStatus:
        """The task's round as it is now, opened at the newest version where there is none."""
        known = await self.federated_task(task_id)
        status = await self._store.read_status(task_id)
        if status is None:
            return await self._open(known)
        self.saw(status)
        return status

    def last_seen(self, task_id: TaskId) -> RoundStatus | None:
        """The round as this replica saw it last: good enough to begin with, never to refuse anything."""
        return self._seen.get(task_id)

    def seen_at(self, task_id: TaskId, told: tuple[str, int] | None) -> RoundStatus | None:
        """The round as it was seen last, where a hint tells of nothing later: most changes are this replica's own."""
        seen = self._seen.get(task_id)
        return seen if seen and told and told[0] == seen.epoch and told[1] <= seen.revision else None

    def forget_seen(self, task_id: TaskId) -> None:
        """When hints may have been lost: a store that came back may have lost what was seen, too."""
        self._seen.drop(task_id)
        self.fresh.drop(task_id)

    def saw(self, status: RoundStatus) -> None:
        """Remembers a round as it was read; what was read later counts."""
        before = self._seen.get(status.task_id)
        if before is None or before.epoch != status.epoch or before.revision < status.revision:
            self._seen.put(status.task_id, status, cost=1)

    async def changed(self, task_id: TaskId, change: Callable[[], Awaitable[RoundStatus]]) -> RoundStatus:
        """The round after a change that the store refuses with RoundMoved where the task has no round yet."""
        known = await self.federated_task(task_id)
        try:
            return await change()
        except RoundMoved:
            await self._open(known)
        try:
            return await change()
        except RoundMoved:
            raise StoreUnavailable from None  # the store was emptied a second time, at this moment

    async def plan(self, status: RoundStatus) -> SumPlan:
        """How contributions to this round are counted. Raises StoredDataDamaged where its base version is damaged.

        Raises RoundMoved where so many rounds were closed since that its base version is no longer kept.
        """
        key = (status.task_id, status.epoch, status.number, status.weight_cap)
        plan = self._plans.get(key)
        if plan is None:
            known = await self.task(status.task_id)
            base = await self._base(status)
            try:
                plan = await off_loop(known.model_bytes, SumPlan.for_base, known.weight_specs, base, status.weight_cap)
            except (InvalidWeights, WeightsNotFinite) as broken:
                name = f"Version {status.number} of {status.task_id}"
                raise StoredDataDamaged(name=name) from broken
            if known.aggregation.privacy is not None:
                plan = plan_of_changes(plan, known.aggregation.privacy)
            self._plans.put(key, plan, cost=len(plan.tensors))
        return plan

    async def _base(self, status: RoundStatus) -> Buffer:
        """The weights that the round starts from. Raises as `plan`."""
        if (fresh := self.fresh.base_of(status)) is not None:
            return fresh.weights
        entry = await records.read_ledger_entry(self._blobs, status.task_id, status.number)
        try:
            return await records.read_weights(self._blobs, status.task_id, entry)
        except VersionNotFound:
            raise RoundMoved from None

    async def is_behind(self, status: RoundStatus) -> bool:
        """Whether the version that this round is to make exists already: the store has lost what it last knew.

        A round that was closed since `status` was read looks the same: read it again.
        """
        # A loss of power leaves entries that are no versions; the round is closed to one in their place.
        return await self.has_next_entry(status) and await whole.is_whole(
            self._blobs, status.task_id, status.number + 1
        )

    async def has_next_entry(self, status: RoundStatus) -> bool:
        """Whether there is an entry where that of the round's version will be, whole or not."""
        try:
            await self._blobs.size(names.ledger_entry(status.task_id, status.number + 1))
        except BlobMissing:
            return False
        return True

    async def newest_version(self, task_id: TaskId) -> int:
        """The number of the newest version that can be gone on from."""
        return await self._heads.newest(task_id)

    async def _open(self, known: KnownTask) -> RoundStatus:
        await self._confirm(known.task_id)
        newest = await self.newest_version(known.task_id)
        entry = await records.read_ledger_entry(self._blobs, known.task_id, newest)
        change = await policies.newest(self._blobs, known.task_id)
        policy = change.policy if change else known.policy
        status = await self._store.open_round(
            known.task_id, policy, number=newest, now=self._clock(), contributions_ever=entry.contributions_ever or 0
        )
        self.saw(status)
        return status


class _Newest(Generic[Key, Value]):
    """Keeps what was used last, up to a total cost."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._cost = 0
        self._kept: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def drop(self, key: Key) -> None:
        if key in self._kept:
            self._cost -= self._kept.pop(key)[1]

    def put(self, key: Key, value: Value, *, cost: int) -> None:
        _, before = self._kept.pop(key, (value, 0))
        self._kept[key] = value, cost
        self._cost += cost - before
        while self._cost > self._bound and len(self._kept) > 1:
            _, (_, freed) = self._kept.popitem(last=False)
            self._cost -= freed
