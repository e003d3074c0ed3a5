"""The tasks of this server: listed, read, created once, each with the versions of its model.

What becomes of a task after that is `task_changes`.

Keeps nothing in memory: any number of replicas work on one blob store. Knows no
gRPC, no round and no participant.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import structlog

from blobstore import creations, ledger, names, policies, records, retention, task_updates
from blobstore.creations import Creation
from blobstore.records import LedgerEntry, Model, Source, TaskRecord
from blobstore.store import BlobExists, BlobMissing, BlobStore, Buffer, StagedBlob, StoreFull
from blobstore.whole import Heads
from learning.ids import TaskId
from learning.refusals import StorageFull, StoredDataDamaged, TaskAlreadyExists, TaskDeleted, TaskNotFound
from learning.task import Task
from privacy.accountant import check_budget
from services.task_service.default_tasks import DEFAULT_TASKS
from services.task_service.new_model import BYTES_PER_WEIGHT, planned
from services.task_service.new_weights import BLOCK_BYTES, OfferedWeights, held_weights, kept_weights, made_weights
from services.task_service.quotas import Quotas
from services.task_service.requests import check_request_id
from services.task_service.task_news import Roster

MAX_PAGE = 1000
DEFAULT_PAGE = 100
DEFAULT_TASK_REQUEST = "default-task"
"""What the server creates by itself counts for no quota."""

_log = structlog.stdlib.get_logger("task_service")


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version of a task's model."""

    task_id: TaskId
    model: Model
    entry: LedgerEntry
    blob: str
    """Where its weights are."""

    @property
    def size(self) -> int:
        """Bytes of its weights."""
        return self.model.size * BYTES_PER_WEIGHT


class Catalog:
    """`max_bytes` limits the weights of one model. Every method raises StoreUnavailable."""

    def __init__(self, store: BlobStore, *, max_bytes: int, quotas: Quotas | None = None) -> None:
        self._store = store
        self._heads = Heads(store)
        self._max_bytes = max_bytes
        self._quotas = quotas or Quotas(store)

    async def page(self, *, size: int, after: str) -> tuple[list[TaskRecord], str]:
        """Tasks in the order of their ids, from behind `after` on, and what to ask for next ("" at the end).

        One damaged record does not hide the others: it is logged and left out.
        """
        size = min(size or DEFAULT_PAGE, MAX_PAGE)
        found: list[TaskRecord] = []
        last = after
        for folder in await self._store.list_folders(names.TASKS):
            if folder <= after:
                continue
            if len(found) == size:
                return found, last
            record = await self._readable(TaskId(folder))
            found += [record] if isinstance(record, TaskRecord) else []
            last = folder
        return found, ""

    async def roster(self) -> Roster:
        """Every task, in the order of the ids."""
        folders = [TaskId(folder) for folder in await self._store.list_folders(names.TASKS)]
        found = {task_id: await self._readable(task_id) for task_id in folders}
        return {
            task_id: record if isinstance(record, TaskRecord) else None
            for task_id, record in found.items()
            if not isinstance(record, TaskNotFound)
        }

    async def _readable(self, task_id: TaskId) -> TaskRecord | TaskNotFound | StoredDataDamaged:
        try:
            return await task_updates.read(self._store, task_id)
        except TaskNotFound as error:
            return error  # is being created, or deleted
        except StoredDataDamaged as error:
            _log.error("task.left_out", task_id=task_id, reason=error.reason)
            return error

    async def task(self, task_id: TaskId) -> tuple[TaskRecord, Model]:
        """Raises TaskNotFound, StoredDataDamaged."""
        record = await task_updates.read(self._store, task_id)
        return record, await self._model(record)

    async def version(self, task_id: TaskId, number: int | None) -> StoredVersion:
        """The version of this number, else the newest. Raises TaskNotFound, VersionNotFound, StoredDataDamaged."""
        _, model = await self.task(task_id)
        newest = await self._heads.newest(task_id) if number is None else number
        entry = await records.read_ledger_entry(self._store, task_id, newest)
        blob, _ = await records.find_weights(self._store, task_id, entry)
        return StoredVersion(task_id, model, entry, blob)

    async def weights(self, version: StoredVersion, *, chunk_size: int) -> AsyncGenerator[bytes, None]:
        """The weights of a version, chunk by chunk.

        The digest is known only at the end, so StoredDataDamaged may be raised
        after the last chunk: what came before must then be thrown away.
        """
        name = version.blob
        digest, size = hashlib.sha256(), 0
        try:
            async for chunk in self._store.read_chunks(name, chunk_size=chunk_size):
                digest.update(chunk)
                size += len(chunk)
                if size > version.size:
                    raise StoredDataDamaged(name=name)
                yield chunk
        except BlobMissing:
            raise await records.missing_weights(self._store, version.task_id, version.entry) from None
        if size != version.size or digest.hexdigest() != version.entry.digest:
            raise StoredDataDamaged(name=name)

    async def create(
        self, task: Task, offered: Model, weights: OfferedWeights | Buffer | None, *, request_id: str, now: float
    ) -> TaskRecord:
        """Creates a task once; the same request id and content get the same answer again.

        Weights are taken one chunk after the other, once everything else has been found good and there is room.

        Raises TaskAlreadyExists, TaskDeleted, InvalidModel, InvalidTask, InvalidWeights, WeightsNotFinite, TooLarge,
        PrivacyNotAccounted, QuotaExceeded, StorageFull, and what the chunks raise.
        """
        check_request_id(request_id)
        existing = await self._existing(task.task_id)
        if existing is not None and (not request_id or existing.request_id != request_id):
            raise TaskAlreadyExists(task_id=task.task_id)
        privacy = task.aggregation.privacy if task.aggregation else None
        if privacy is not None:
            await asyncio.to_thread(check_budget, privacy)
        if isinstance(weights, Buffer):
            weights = held_weights(weights)
        size = None if weights is None else weights.size
        new = await asyncio.to_thread(planned, task, offered, weights_size=size, max_bytes=self._max_bytes)
        weights = weights or made_weights(task, new)
        async with _full_is_said(), AsyncExitStack() as stack:
            counts = request_id != DEFAULT_TASK_REQUEST
            if existing is None:
                room = self._quotas.reserved(task.task_id, size=new.weights_size, counts=counts)
                creation = await stack.enter_async_context(room)
            kept = await stack.enter_async_context(kept_weights(self._store, new, weights))
            if existing is None:
                try:
                    return await self._write(creation, task, new.model, kept, request_id=request_id, now=now)
                except BlobExists:
                    existing = await records.read_task(self._store, task.task_id)
            asked = (request_id, task, _sha256(records.encode(new.model)), kept.digest)
        if not request_id or asked != _asked(existing):
            raise TaskAlreadyExists(task_id=task.task_id)
        return existing

    async def fork(
        self, source_id: TaskId, number: int | None, task_id: TaskId, *, title: str, request_id: str, now: float
    ) -> TaskRecord:
        """Creates a task that begins with a version of another one (None: the newest).

        The same request id gets the same answer again. Raises TaskNotFound,
        VersionNotFound, TaskAlreadyExists, TaskDeleted, InvalidTask, QuotaExceeded, StoredDataDamaged, StorageFull.
        """
        check_request_id(request_id)
        existing = await self._existing(task_id)
        if existing is not None:
            return _forked_before(existing, source_id, number, request_id=request_id)
        record, model = await self.task(source_id)
        number = await self._heads.newest(source_id) if number is None else number
        entry_bytes = await records.read_entry_bytes(self._store, source_id, number)
        await retention.pin(self._store, source_id, number)
        entry = records.decode_entry(entry_bytes, name=names.ledger_entry(source_id, number))
        change = await policies.newest(self._store, source_id)
        task = replace(
            record.task,
            task_id=task_id,
            display=replace(record.task.display, title=title) if title else record.task.display,
            policy=change.policy if change else record.task.policy,
        )
        blob, _ = await records.find_weights(self._store, source_id, entry)
        version = StoredVersion(source_id, model, entry, blob)
        source = Source(task_id=source_id, version=number, entry_digest=ledger.digest_of_entry(entry_bytes))
        async with (
            _full_is_said(),
            self._quotas.reserved(task_id, size=version.size) as creation,
            self._store.staged() as copy,
        ):
            async with aclosing(self.weights(version, chunk_size=BLOCK_BYTES)) as chunks:
                async for chunk in chunks:
                    await copy.append(chunk)
            more = {"request_id": request_id, "now": now, "source": source, "privacy": entry.privacy}
            try:
                return await self._write(creation, task, model, copy, **more)
            except BlobExists:
                existing = await records.read_task(self._store, task_id)
                return _forked_before(existing, source_id, number, request_id=request_id)

    async def add_default_tasks(self, task_ids: Sequence[str], *, now: float) -> None:
        """Creates those that are not there; what is there stays as it is, whatever it is."""
        there: Collection[str] = set(await records.list_tasks(self._store))
        for task_id in task_ids:
            if task_id in there:
                continue
            default = await asyncio.to_thread(DEFAULT_TASKS[task_id])
            offered = Model(default.kind, default.topology_json, ())
            try:
                await self.create(default.task, offered, None, request_id=DEFAULT_TASK_REQUEST, now=now)
            except TaskAlreadyExists:
                continue  # another replica was first, with a task of another release perhaps
            except TaskDeleted:
                continue  # and it is to stay so
            _log.info("task.created", task_id=task_id)

    async def _existing(self, task_id: TaskId) -> TaskRecord | None:
        """The task as it was created. Raises TaskDeleted."""
        if await task_updates.is_deleted(self._store, task_id):
            raise TaskDeleted(task_id=task_id)
        try:
            return await records.read_task(self._store, task_id)
        except TaskNotFound:
            return None

    async def _write(
        self, creation: Creation, task: Task, model: Model, weights: StagedBlob, **more: Any
    ) -> TaskRecord:
        """Raises BlobExists where another one was first, TaskDeleted, StoreFull; nothing of the task is left then."""
        task_id, store = task.task_id, self._store
        try:
            record = await records.write_task(store, task, model, weights, **more)
        except BlobExists:
            await self._withdraw(task_id, model, weights.digest)
            raise
        except StoreFull:
            await creations.clear(store, task_id, own=creation)
            raise
        if await task_updates.is_deleted(store, task_id):  # since it was looked for
            await task_updates.forget(store, task_id)
            raise TaskDeleted(task_id=task_id)
        return record

    async def _withdraw(self, task_id: TaskId, model: Model, weights_digest: str) -> None:
        """Deletes what was written for a task that somebody else created first.

        Not what that one uses, as where it came of the same request, sent once more to another
        replica. Nobody else will use the rest: the record that is there stays the only one.
        """
        written = {names.weights(task_id, weights_digest), names.model(task_id, _sha256(records.encode(model)))}
        with contextlib.suppress(TaskNotFound):  # deleted since, and its id is never used again
            record = await records.read_task(self._store, task_id)
            written -= {names.weights(task_id, record.initial_digest), names.model(task_id, record.model_digest)}
        for name in written:
            await self._store.delete(name)

    async def _model(self, record: TaskRecord) -> Model:
        try:
            return await records.read_model(self._store, record)
        except BlobMissing:
            raise StoredDataDamaged(name=names.model(record.task.task_id, record.model_digest)) from None


def _forked_before(existing: TaskRecord, source_id: TaskId, number: int | None, *, request_id: str) -> TaskRecord:
    """Raises TaskAlreadyExists where it is not what this very request made."""
    source = existing.source
    if (
        not request_id
        or existing.request_id != request_id
        or source is None
        or source.task_id != source_id
        or number not in (None, source.version)
    ):
        raise TaskAlreadyExists(task_id=existing.task.task_id)
    return existing


def _asked(record: TaskRecord) -> tuple[str, Task, str, str]:
    """What makes two requests the same."""
    return record.request_id, record.task, record.model_digest, record.initial_digest


def _sha256(data: Buffer) -> str:
    return hashlib.sha256(data).hexdigest()


@asynccontextmanager
async def _full_is_said() -> AsyncIterator[None]:
    """A disk that is full is a fault of its own for whoever creates a task: to try again at once is of no use."""
    try:
        yield
    except StoreFull:
        raise StorageFull from None
