"""How much this server keeps for strangers: tasks, and bytes of their models. Knows the blob store.

Counted anew for each creation, over all replicas: what is created at the same moment may come to a
little more. The models count as they were created; what is trained of them does not.
"""

from __future__ import annotations

from blobstore import names, records
from blobstore.store import BlobMissing, BlobStore
from learning.ids import TaskId
from learning.refusals import QuotaExceeded, StoredDataDamaged, TaskNotFound


class Quotas:
    """`max_tasks` and `max_bytes` of all models together; 0: any number."""

    def __init__(self, store: BlobStore, *, max_tasks: int = 0, max_bytes: int = 0) -> None:
        self._store = store
        self._max_tasks = max_tasks
        self._max_bytes = max_bytes

    async def check(self, *, more_bytes: int) -> None:
        """Whether there is room for one more task, with a model of so many bytes. Raises QuotaExceeded."""
        if not self._max_tasks and not self._max_bytes:
            return
        task_ids = await records.list_tasks(self._store)
        if self._max_tasks and len(task_ids) >= self._max_tasks:
            raise QuotaExceeded(quota="DISCO_MAX_TASKS", limit=self._max_tasks)
        if self._max_bytes:
            used = sum([await self._size(task_id) for task_id in task_ids])
            if used + more_bytes > self._max_bytes:
                raise QuotaExceeded(quota="DISCO_MAX_STORED_BYTES", limit=self._max_bytes)

    async def _size(self, task_id: TaskId) -> int:
        try:
            record = await records.read_task(self._store, task_id)
            return await self._store.size(names.weights(task_id, record.initial_digest))
        except (TaskNotFound, StoredDataDamaged, BlobMissing):
            return 0
