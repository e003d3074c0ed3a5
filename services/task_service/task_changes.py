"""What may become of a task that exists: which fields an update may change, and what it means to delete it.

    may change    what people are told (`display`), how long a participant trains, and which dialect is guessed (FREE)
    stays         all that decides what the weights mean, how they are aggregated, or what participants were promised

It makes no difference whether there are versions yet: clients have the model as soon as the task is listed.
Knows the blob store; no gRPC, no round and no participant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from dataclasses import fields, replace

import structlog

from blobstore import task_updates
from blobstore.records import TaskRecord
from blobstore.store import BlobExists, BlobStore, StoreFull
from learning.ids import TaskId
from learning.refusals import MalformedMessage, StorageFull, TaskChanged, TaskFieldFixed, TaskNotFound
from learning.task import Task
from services.task_service.requests import check_request_id

FREE = frozenset({"pinned_dialect"}) | {
    f"training.{name}"
    for name in ("epochs", "batch_size", "validation_split", "round_duration_batches", "round_duration_epochs")
}
"""Fields beside those of `display` that an update may change."""
ATTEMPTS = 10

_IN_PARTS = ("aggregation", "training", "display")
_ELSEWHERE = {
    "policy": "AggregatorService.ChangePolicy changes the policy of a federated task",
    "task_id": "receipts name it",
}
_log = structlog.stdlib.get_logger("task_service")


class TaskChanges:
    """Updates and deletes tasks. Every method raises StoreUnavailable, StorageFull, StoredDataDamaged."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    async def update(
        self, task: Task, *, keep: Collection[str] = (), expected: int, request_id: str, now: float
    ) -> TaskRecord:
        """The task after the update; `expected` is the revision that its author has seen, 0: any.

        What `keep` names (policy, aggregation) stays as it is, whatever `task` says.

        Raises TaskNotFound, TaskChanged, TaskFieldFixed, InvalidTask, MalformedMessage.
        """
        check_request_id(request_id)
        for _ in range(ATTEMPTS):
            before = await task_updates.read(self._store, task.task_id)
            task = replace(task, **{part: getattr(before.task, part) for part in keep})
            if request_id and (done := await task_updates.of_request(self._store, task.task_id, request_id)):
                if done.task != task:
                    raise MalformedMessage(problem="the request_id was used for another update")
                return replace(before, task=done.task, revision=done.revision)
            if expected not in (0, before.revision):
                raise TaskChanged(task_id=task.task_id, expected=expected, revision=before.revision)
            _check_free(before.task, task)
            if before.task == task:
                return before
            try:
                after = await task_updates.add(self._store, before, task, request_id=request_id, now=now)
            except BlobExists:
                await asyncio.sleep(0)
                continue  # and sees the other update
            except StoreFull:
                raise StorageFull from None
            _log.info("task.updated", task_id=task.task_id, revision=after.revision)
            return after
        raise TaskChanged(task_id=task.task_id, expected=expected, revision="another one by now")

    async def delete(self, task_id: TaskId, *, expected: int, request_id: str, now: float) -> None:
        """Raises TaskNotFound, TaskChanged, InvalidTask."""
        check_request_id(request_id)
        try:
            before = await task_updates.read(self._store, task_id)
        except TaskNotFound:
            deletion = await task_updates.find_deletion(self._store, task_id)
            if deletion and request_id and deletion.request_id == request_id:
                return
            raise
        if expected not in (0, before.revision):
            raise TaskChanged(task_id=task_id, expected=expected, revision=before.revision)
        try:
            await task_updates.delete(self._store, task_id, request_id=request_id, now=now)
        except StoreFull:
            raise StorageFull from None
        _log.info("task.deleted", task_id=task_id)


def _check_free(before: Task, after: Task) -> None:
    """Raises TaskFieldFixed for the first field that differs and may not."""
    for path in _differences(before, after):
        if not path.startswith("display.") and path not in FREE:
            why = _ELSEWHERE.get(path.partition(".")[0], "create or fork another task with the other value")
            raise TaskFieldFixed(task_id=before.task_id, field=path, problem=why)


def _differences(before: Task, after: Task) -> Iterator[str]:
    """The paths of all fields that differ; of `aggregation` it is what holds that counts."""
    for field in fields(before):
        if field.name not in _IN_PARTS and getattr(before, field.name) != getattr(after, field.name):
            yield field.name
    if before.aggregation_in_force != after.aggregation_in_force:
        yield "aggregation"
    for part in ("training", "display"):
        old, new = getattr(before, part), getattr(after, part)
        for field in fields(old):
            if getattr(old, field.name) != getattr(new, field.name):
                yield f"{part}.{field.name}"
