"""Which tasks are being created: each creation says so in the store before it writes anything of its task.

    creations/<task>/<creation>.<bytes>   written before anything of the task, deleted when the creation has ended
    clearings/<task>/<clearing>           written before anything that a creation left is deleted, deleted after it

Creating a task and deleting what an earlier creation of it left may happen at once, in processes that know nothing
of each other, and to the same blobs. Both say what they do before they look whether the other does:

    begin    writes that it creates, then looks for clearings, and waits until there is none
    clear    writes that it clears, then looks for other creations, then for a record; either stops it

So at least one of the two sees the other. What a process that was killed said stays, until
somebody who has seen it for long enough deletes it (`services.task_service.leftovers`). Knows no quota and no clock.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

from blobstore import names, records
from blobstore.store import BlobStore
from learning.ids import TaskId
from learning.refusals import StoreUnavailable

LOOKS = 6
FIRST_WAIT_S = 0.02


@dataclass(frozen=True, slots=True)
class Creation:
    """One attempt to create a task, whose weights will take `size` bytes."""

    task_id: TaskId
    creation_id: str
    size: int

    @property
    def name(self) -> str:
        return names.creation(self.task_id, self.creation_id, self.size)


async def begin(store: BlobStore, task_id: TaskId, *, size: int) -> Creation:
    """From now on nobody clears what is written of this task. Raises StoreUnavailable where a clearing does not end."""
    creation = Creation(task_id, secrets.token_hex(16), size)
    await store.write(creation.name, [b""])
    begun = False
    try:
        for look in range(LOOKS):
            if not await store.list(names.clearings(task_id)):
                begun = True
                return creation
            await asyncio.sleep(FIRST_WAIT_S * 2**look)
        raise StoreUnavailable
    finally:
        if not begun:
            await end(store, creation)


async def end(store: BlobStore, creation: Creation) -> None:
    """The task is there, or is not to be."""
    await store.delete(creation.name)


async def under_way(store: BlobStore) -> list[Creation]:
    """All of them, also those of processes that were killed lately."""
    return [_creation(name) for name in await store.list(names.CREATIONS)]


async def list_unfinished(store: BlobStore) -> list[TaskId]:
    """The ids under which something is kept and no task is: being created, or given up."""
    found = [TaskId(folder) for folder in await store.list_folders(names.TASKS)]
    return [task_id for task_id in found if not await records.has_record(store, task_id)]


async def clear(store: BlobStore, task_id: TaskId, *, own: Creation | None = None) -> int:
    """Deletes what creations left of a task that is not there; how many blobs. `own` is one that has failed.

    Nothing where there is a task, or somebody else creates it, or anything is kept that no creation writes: that
    was a task once, whose record is lost, and its versions are dear to somebody.
    """
    clearing = names.clearing(task_id, secrets.token_hex(16))
    await store.write(clearing, [b""])
    try:
        others = [name for name in await store.list(names.creations(task_id)) if own is None or name != own.name]
        # Only now: the record of one that has just ended is among them.
        left = await store.list(names.task(task_id))
        if others or not all(_is_of_a_creation(name, task_id) for name in left):
            return 0
        for name in left:
            await store.delete(name)
        return len(left)
    finally:
        await store.delete(clearing)


def _is_of_a_creation(name: str, task_id: TaskId) -> bool:
    """Whether it is a model, or weights of version 0; the record is neither."""
    is_model = name.startswith(f"{names.models(task_id)}/")
    is_weights = name.startswith(f"{names.all_weights(task_id)}/")
    return is_model or (is_weights and names.version_of_weights(name) == 0)


def _creation(name: str) -> Creation:
    _, task_id, last = name.split("/")
    creation_id, _, size = last.partition(".")
    return Creation(TaskId(task_id), creation_id, int(size))
