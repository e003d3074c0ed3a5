"""How much this server keeps for strangers: tasks, and bytes of their models. Knows the blob store.

What is being created counts from its beginning, before its weights come, and as long as it is not given up
(`blobstore.creations`): a task is counted by its mark before its record is there, and by its record
before the mark goes. One who asks writes a mark, too, and only then counts:

    on one replica    they ask one after the other, so that one gets the last room, and all others are refused
    on several        of those that ask at the same moment each sees the other, or is seen: the quotas are never
                      exceeded, but all of them may be refused the last room

The models count as they were created; what is trained of them does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from blobstore import creations, names, records
from blobstore.creations import Creation
from blobstore.store import BlobMissing, BlobStore
from learning.ids import TaskId
from learning.refusals import QuotaExceeded, StoredDataDamaged, StoreUnavailable, TaskNotFound

_log = structlog.stdlib.get_logger("task_service")


class Quotas:
    """`max_tasks` and `max_bytes` of all models together; 0: any number. One per replica."""

    def __init__(self, store: BlobStore, *, max_tasks: int = 0, max_bytes: int = 0) -> None:
        self._store = store
        self._max_tasks = max_tasks
        self._max_bytes = max_bytes
        self._asking = asyncio.Lock()

    @asynccontextmanager
    async def reserved(self, task_id: TaskId, *, size: int, counts: bool = True) -> AsyncIterator[Creation]:
        """Room for one more task, with a model of so many bytes, while the block runs.

        What does not count is refused nothing. Raises QuotaExceeded.
        """
        async with self._asking, AsyncExitStack() as refused:
            creation = await creations.begin(self._store, task_id, size=size)
            refused.push_async_callback(self._end, creation)
            if counts:
                await self._check()
            reserved = refused.pop_all()
        async with reserved:
            yield creation

    async def _end(self, creation: Creation) -> None:
        try:
            await creations.end(self._store, creation)
        except StoreUnavailable as fault:  # what came of the creation holds; the mark is swept
            _log.warning("creation.mark_kept", task_id=creation.task_id, because=str(fault))

    async def _check(self) -> None:
        if not self._max_tasks and not self._max_bytes:
            return
        marks = await creations.under_way(self._store)
        # Only now: what has ended meanwhile has a record.
        task_ids = await records.list_tasks(self._store)
        # Of several that create one task at most one succeeds.
        creating = {mark.task_id: mark.size for mark in sorted(marks, key=lambda mark: mark.size)}
        for task_id in task_ids:
            creating.pop(task_id, None)
        if self._max_tasks and len(task_ids) + len(creating) > self._max_tasks:
            raise QuotaExceeded(quota="DISCO_MAX_TASKS", limit=self._max_tasks)
        if self._max_bytes:
            used = sum([await self._size(task_id) for task_id in task_ids])
            if used + sum(creating.values()) > self._max_bytes:
                raise QuotaExceeded(quota="DISCO_MAX_STORED_BYTES", limit=self._max_bytes)

    async def _size(self, task_id: TaskId) -> int:
        try:
            record = await records.read_task(self._store, task_id)
            return await self._store.size(names.weights(task_id, record.initial_digest))
        except (TaskNotFound, StoredDataDamaged, BlobMissing):
            return 0
