"""How much this server keeps for strangers: tasks, and bytes of their models. Knows the blob store.

What is being created counts from its beginning, before its weights come, and as long as it is not given up
(`blobstore.creations`): a task is counted by its mark before its record is there, and by its record
before the mark goes. One who asks writes a mark, too, and only then counts:

    on one replica    they ask one after the other, so that one gets the last room, and all others are refused
    on several        of those that ask at the same moment each sees the other, or is seen: the quotas are never
                      exceeded. All of them may be in each other's way: whoever would have room but for what other
                      replicas have under way takes back its mark and asks again after a random pause, twice

The models count as they were created; what is trained of them does not.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import structlog

from blobstore import creations, names, records
from blobstore.creations import Creation
from blobstore.store import BlobMissing, BlobStore
from learning.ids import TaskId
from learning.refusals import QuotaExceeded, StoredDataDamaged, StoreUnavailable, TaskNotFound

PAUSES_S = (0.1, 0.4)
"""The longest pause before each further attempt: long beside an attempt, short beside an upload."""

_log = structlog.stdlib.get_logger("task_service")


class _InTheWay(Exception):
    """There would be room, but for what other replicas have under way; they may be refused it as well."""

    def __init__(self, refusal: QuotaExceeded) -> None:
        super().__init__()
        self.refusal = refusal


async def _pause(longest_s: float) -> None:
    await asyncio.sleep(random.uniform(0.0, longest_s))  # noqa: S311 (it decides who is first, and nobody's secret)


class Quotas:
    """`max_tasks` and `max_bytes` of all models together; 0: any number. One per replica.

    `pause` waits, at random, for at most so many seconds.
    """

    def __init__(
        self,
        store: BlobStore,
        *,
        max_tasks: int = 0,
        max_bytes: int = 0,
        pause: Callable[[float], Awaitable[None]] = _pause,
    ) -> None:
        self._store = store
        self._max_tasks = max_tasks
        self._max_bytes = max_bytes
        self._pause = pause
        self._asking = asyncio.Lock()
        self._admitted: set[Creation] = set()

    @asynccontextmanager
    async def reserved(self, task_id: TaskId, *, size: int, counts: bool = True) -> AsyncIterator[Creation]:
        """Room for one more task, with a model of so many bytes, while the block runs.

        What does not count is refused nothing. Raises QuotaExceeded.
        """
        creation = await self._admit(task_id, size=size, counts=counts)
        try:
            yield creation
        finally:
            self._admitted.discard(creation)
            await self._end(creation)

    async def _admit(self, task_id: TaskId, *, size: int, counts: bool) -> Creation:
        for longest_s in PAUSES_S:
            try:
                return await self._ask(task_id, size=size, counts=counts)
            except _InTheWay:
                await self._pause(longest_s)
        try:
            return await self._ask(task_id, size=size, counts=counts)
        except _InTheWay as still:
            raise still.refusal from None

    async def _ask(self, task_id: TaskId, *, size: int, counts: bool) -> Creation:
        async with self._asking:
            creation = await creations.begin(self._store, task_id, size=size)
            admitted = False
            try:
                if counts:
                    await self._check(creation)
                self._admitted.add(creation)
                admitted = True
                return creation
            finally:
                if not admitted:
                    await self._end(creation)

    async def _end(self, creation: Creation) -> None:
        try:
            await creations.end(self._store, creation)
        except StoreUnavailable as fault:  # what came of the creation holds; the mark is swept
            _log.warning("creation.mark_kept", task_id=creation.task_id, because=str(fault))

    async def _check(self, asking: Creation) -> None:
        """Raises QuotaExceeded, and _InTheWay where another attempt may do better."""
        if not self._max_tasks and not self._max_bytes:
            return
        marks = await creations.under_way(self._store)
        # Only now: what has ended meanwhile has a record.
        task_ids = await records.list_tasks(self._store)
        used = sum([await self._size(task_id) for task_id in task_ids]) if self._max_bytes else 0
        refusal = self._refusal(marks, task_ids, used)
        if refusal is None:
            return
        ours = [mark for mark in marks if mark == asking or mark in self._admitted]
        if self._refusal(ours, task_ids, used) is None:
            raise _InTheWay(refusal)
        raise refusal

    def _refusal(self, marks: Sequence[Creation], task_ids: Sequence[TaskId], used: int) -> QuotaExceeded | None:
        # Of several that create one task at most one succeeds.
        creating = {mark.task_id: mark.size for mark in sorted(marks, key=lambda mark: mark.size)}
        for task_id in task_ids:
            creating.pop(task_id, None)
        if self._max_tasks and len(task_ids) + len(creating) > self._max_tasks:
            return QuotaExceeded(quota="DISCO_MAX_TASKS", limit=self._max_tasks)
        if self._max_bytes and used + sum(creating.values()) > self._max_bytes:
            return QuotaExceeded(quota="DISCO_MAX_STORED_BYTES", limit=self._max_bytes)
        return None

    async def _size(self, task_id: TaskId) -> int:
        try:
            record = await records.read_task(self._store, task_id)
            return await self._store.size(names.weights(task_id, record.initial_digest))
        except (TaskNotFound, StoredDataDamaged, BlobMissing):
            return 0
