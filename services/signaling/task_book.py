"""The decentralized tasks, read from the blob store and remembered for a moment. Knows no peer."""

from __future__ import annotations

from collections.abc import Callable

from blobstore.records import read_task
from blobstore.store import BlobStore
from learning.ids import TaskId
from learning.refusals import StoreUnavailable, TaskNotFound, WrongScheme
from learning.task import Scheme, Task

REMEMBERED_S = 5.0
"""Nothing of a task that counts here ever changes, but it may be deleted: its peers hear of that by then."""


class TaskBook:
    """Looks tasks up for those who connect."""

    def __init__(self, store: BlobStore, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._tasks: dict[TaskId, tuple[float, Task]] = {}

    async def find(self, task_id: TaskId) -> Task:
        """Raises TaskNotFound, WrongScheme, StoredDataDamaged, StoreUnavailable."""
        until, task = self._tasks.get(task_id, (0.0, None))
        if task is None or self._clock() >= until:
            task = await self._read(task_id, task)
            self._tasks[task_id] = (self._clock() + REMEMBERED_S, task)
        if task.scheme is not Scheme.DECENTRALIZED:
            raise WrongScheme(task_id=task_id, scheme=task.scheme.value)
        return task

    async def _read(self, task_id: TaskId, known: Task | None) -> Task:
        try:
            return (await read_task(self._store, task_id)).task
        except TaskNotFound:
            self._tasks.pop(task_id, None)
            raise
        except StoreUnavailable:
            if known is None:
                raise
            return known  # goes on until the store says otherwise
