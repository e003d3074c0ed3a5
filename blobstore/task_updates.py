"""What becomes of a task after its creation: updates, each a record of its own, and its deletion, which is for good.

    tasks/<task>/task.json                 as it was created: revision 1, never written again
    tasks/<task>/updates/<revision>.json   the whole task since that revision; the newest one holds
    deleted/<task>/deletion.json           written first, stays for good; then the record is deleted, then all the rest

Of two who write the same revision one succeeds, so an update is a compare-and-swap. Whoever
creates a task looks for a deletion before it writes the record and after it: of a
deletion and a creation at the same moment at least one sees the other. Knows no rule of what may change.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import msgspec
import structlog

from blobstore import ledger, names, records
from blobstore.records import TaskRecord
from blobstore.store import BlobExists, BlobMissing, BlobStore
from learning.ids import TaskId
from learning.refusals import Refusal, StoredDataDamaged, VersionNotFound
from learning.task import Task

KEPT_UPDATES = 100

_log = structlog.stdlib.get_logger("blobstore")


@dataclass(frozen=True, slots=True)
class TaskUpdate:
    """One update of a task."""

    revision: int
    """From 2."""
    task: Task
    request_id: str
    update_time: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """That a task was deleted, and where its ledger ended: enough to check a copy of it."""

    task_id: TaskId
    request_id: str
    delete_time: float
    """Seconds since the epoch."""
    last_version: int
    entry_digest: str
    """SHA-256 of the ledger entry of that version; empty where it could not be read."""


async def read(store: BlobStore, task_id: TaskId) -> TaskRecord:
    """The task as it is now. Raises TaskNotFound, StoredDataDamaged."""
    record = await records.read_task(store, task_id)
    update = await _newest(store, task_id)
    return replace(record, task=update.task, revision=update.revision) if update else record


async def of_request(store: BlobStore, task_id: TaskId, request_id: str) -> TaskUpdate | None:
    """The update that a request made, while it is one of the last hundred."""
    for name in reversed(await store.list(names.task_updates(task_id))):
        update = await _read(store, name)
        if update and update.request_id == request_id:
            return update
    return None


async def add(store: BlobStore, before: TaskRecord, task: Task, *, request_id: str, now: float) -> TaskRecord:
    """The task after an update of `before`. Raises BlobExists where another update came first."""
    task_id = task.task_id
    written = await store.list(names.task_updates(task_id))
    # One more than the newest name and not than the newest revision: that one may be torn.
    revision = max([before.revision, *map(_revision_of, written)]) + 1
    update = TaskUpdate(revision, task, request_id, now)
    newest = await _newest(store, task_id)
    if newest is not None and newest.revision != before.revision:
        raise BlobExists(names.task_update(task_id, newest.revision))
    await store.write(names.task_update(task_id, revision), [records.encode(update)], replace=False)
    await store.settle()
    for name in written[: -KEPT_UPDATES + 1]:
        await store.delete(name)
    return replace(before, task=task, revision=revision)


async def is_deleted(store: BlobStore, task_id: TaskId) -> bool:
    """Whether a task of this id was ever deleted."""
    try:
        await store.size(names.deletion(task_id))
    except BlobMissing:
        return False
    return True


async def find_deletion(store: BlobStore, task_id: TaskId) -> Deletion | None:
    """None where no task of this id was deleted, and where the record of it is torn: it counts all the same."""
    try:
        return msgspec.json.decode(await store.read(names.deletion(task_id)), type=Deletion)
    except BlobMissing:
        return None
    except (msgspec.DecodeError, ValueError, Refusal):
        _log.exception("deletion.torn", task_id=task_id)
        return None


async def delete(store: BlobStore, task_id: TaskId, *, request_id: str, now: float) -> None:
    """Deletes a task that is there; its blobs are left (`forget`). Doing it again is harmless."""
    version, digest = await _end_of_ledger(store, task_id)
    deletion = Deletion(task_id, request_id, now, version, digest)
    with contextlib.suppress(BlobExists):
        await store.write(names.deletion(task_id), [records.encode(deletion)], replace=False)
    await store.settle()
    await store.delete(names.task_record(task_id))


async def list_deleted(store: BlobStore) -> list[TaskId]:
    """The ids of all tasks that were ever deleted."""
    return [TaskId(found) for found in await store.list_folders(names.DELETED)]


async def forget(store: BlobStore, task_id: TaskId) -> int:
    """Deletes whatever is kept of a task that has no record, or is to have none; how many blobs."""
    await store.delete(names.task_record(task_id))
    folders = (
        names.task(task_id),
        names.sums(task_id),
        names.contributions(task_id),
        names.rule_states(task_id),
    )
    found = [name for folder in folders for name in await store.list(folder)]
    for name in found:
        await store.delete(name)
    return len(found)


async def _end_of_ledger(store: BlobStore, task_id: TaskId) -> tuple[int, str]:
    number = await records.newest_version(store, task_id)
    try:
        return number, ledger.digest_of_entry(await records.read_entry_bytes(store, task_id, number))
    except (VersionNotFound, StoredDataDamaged):
        return number, ""  # what is damaged may be deleted all the same


async def _newest(store: BlobStore, task_id: TaskId) -> TaskUpdate | None:
    for name in reversed(await store.list(names.task_updates(task_id))):
        if update := await _read(store, name):
            return update
    return None


async def _read(store: BlobStore, name: str) -> TaskUpdate | None:
    """None where it is torn: it was written in the last moment before a loss of power, and never told to anybody."""
    try:
        return msgspec.json.decode(await store.read(name), type=TaskUpdate)
    except BlobMissing:  # deleted meanwhile, as one that is old
        return None
    except (msgspec.DecodeError, ValueError, Refusal):
        _log.exception("task_update.torn", blob=name)
        return None


def _revision_of(name: str) -> int:
    return int(name.rsplit("/", 1)[1].removesuffix(".json"))
