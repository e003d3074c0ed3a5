"""What lies in the blob store, read and written as values: task records, models, versions with their ledger entries.

Written by the task service and the aggregators, read by all three services.
Knows no Redis and no gRPC; trusts no file (StoredDataDamaged).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import msgspec

from blobstore import names
from blobstore.store import BlobExists, BlobMissing, BlobStore, Buffer, StagedBlob
from learning.ids import TaskId
from learning.refusals import Refusal, StoredDataDamaged, TaskNotFound, VersionNotFound
from learning.task import Task

Record = TypeVar("Record")

Rule = Literal[
    "initial",
    "fork",
    "mean",
    "restore",
    "fedavgm",
    "fedadam",
    "fedyogi",
    "fedadagrad",
    "median",
    "trimmed_mean",
    "centered_clipping",
]
"""How the weights of a version came about: given, or made at random, when the task was created; those of a version of
another task; the mean of the contributions (`services.aggregator.exact_sums`); those of an older version again;
what an aggregation rule made of the base version and the contributions (`learning.aggregation`)."""


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """One tensor: its TF.js name and its dimensions."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Model:
    """A model apart from its weights; fields as in disco.task.v1.Model."""

    kind: str
    """"tfjs" or "gpt"."""
    topology_json: str
    weight_specs: tuple[WeightSpec, ...]
    training_config_json: str = ""

    @property
    def size(self) -> int:
        """Number of weights of all tensors."""
        return sum(spec.size for spec in self.weight_specs)


@dataclass(frozen=True, slots=True)
class Source:
    """The version of another task that a task began with."""

    task_id: str
    version: int
    entry_digest: str
    """SHA-256 of that version's ledger entry, which states the digest of the weights."""


@dataclass(frozen=True, slots=True)
class PrivacyAccount:
    """What the versions of a task, up to one of them, have come to in differential privacy."""

    clipping_norm: float
    noise_multiplier: float
    delta: float
    epsilon_budget: float
    noisy_versions: int
    """In a fork with those of its source, up to the version it began with."""
    epsilon: float
    """What they come to at `delta`, rounded up to a millionth."""


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task as it is kept."""

    task: Task
    create_time: float
    """Seconds since the epoch."""
    model_digest: str
    initial_digest: str
    """Of the weights of version 0."""
    request_id: str = ""
    source: Source | None = None
    revision: int = 1
    """As it is written: 1. `blobstore.task_updates` reads the task as it is now, with a greater one."""
    privacy: PrivacyAccount | None = None
    """What the source's versions had come to where the task began; None where that is nothing."""


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One contribution that is counted in a version."""

    participant_id: str
    digest: str
    base_round: int
    weight: int
    position: int


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What a version was made of. Digests are SHA-256 in lower-case hex.

    The entries of a task are a chain: each states the digest of the one before it, so
    that none of them can be changed without changing all that follow.
    """

    version: int
    digest: str
    """Of the version's weights."""
    base_digest: str
    """Of the weights of the version before; empty for version 0."""
    create_time: float
    total_weight: int = 0
    weight_cap: int = 0
    contributions: tuple[LedgerLine, ...] = ()
    """In the order of their positions."""
    task_id: str = ""
    """This and what follows is empty in entries that were written before there were receipts to prove."""
    rule: Rule = "mean"
    merkle_root: str = ""
    """Over the contributions (`blobstore.ledger`)."""
    previous: str = ""
    """Digest of the bytes of the entry before this one; of the source's entry where a fork begins."""
    source: Source | None = None
    """Of version 0, where the task is a fork."""
    restores: int | None = None
    """Where the rule is "restore": which version. The contributions are acknowledged, and in no weights."""
    request_id: str = ""
    """Of the rollback."""
    state_digest: str = ""
    """Of what the rule goes on with in the next round (`blobstore.names.rule_state`); empty where it keeps nothing."""
    contributions_ever: int | None = None
    """In this version and all before it; None in entries that were written before this was kept."""
    lost: tuple[LedgerLine, ...] = ()
    """Contributions to its round that were acknowledged and lost, to a loss of power or a broken disk: not counted."""
    privacy: PrivacyAccount | None = None
    """Where the task asks for differential privacy. A version that is no "restore" then has noise of its own."""


@dataclass(frozen=True, slots=True)
class Rollback:
    """What a request to roll back came to: this version, where its entry names the request, too."""

    version: int


def encode(record: object) -> bytes:
    """A record as JSON, the same bytes for the same record."""
    return msgspec.json.encode(record, order="deterministic")


def _decode(data: bytes, kind: type[Record], *, name: str) -> Record:
    """Raises StoredDataDamaged."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, ValueError, Refusal) as broken:  # values keep their own rules when they are read, too
        raise StoredDataDamaged(name=name) from broken


async def _read(store: BlobStore, name: str, kind: type[Record]) -> Record:
    return _decode(await store.read(name), kind, name=name)  # the caller knows what a missing one means


async def read_task(store: BlobStore, task_id: TaskId) -> TaskRecord:
    """Raises TaskNotFound, StoredDataDamaged."""
    try:
        return await _read(store, names.task_record(task_id), TaskRecord)
    except BlobMissing:
        raise TaskNotFound(task_id=task_id) from None


async def list_tasks(store: BlobStore) -> list[TaskId]:
    """Every task, in the order of the ids; whatever its number of versions, one look at each."""
    return [TaskId(found) for found in await store.list_folders(names.TASKS) if await has_record(store, TaskId(found))]


async def has_record(store: BlobStore, task_id: TaskId) -> bool:
    """Whether there is such a task, its record damaged or not."""
    try:
        await store.size(names.task_record(task_id))
    except BlobMissing:
        return False
    return True


async def read_model(store: BlobStore, record: TaskRecord) -> Model:
    """Raises StoredDataDamaged."""
    name = names.model(record.task.task_id, record.model_digest)
    try:
        return await _read(store, name, Model)
    except BlobMissing:
        raise StoredDataDamaged(name=name) from None


async def newest_version(store: BlobStore, task_id: TaskId) -> int:
    """The number of the newest version that was written, whole or not (`blobstore.whole`); 0 where none was."""
    entries = [name for name in await store.list(names.versions(task_id)) if name.endswith(".json")]
    return int(entries[-1].rsplit("/", 1)[1].removesuffix(".json")) if entries else 0


async def read_ledger_entry(store: BlobStore, task_id: TaskId, number: int) -> LedgerEntry:
    """Raises TaskNotFound, VersionNotFound, StoredDataDamaged."""
    return decode_entry(await read_entry_bytes(store, task_id, number), name=names.ledger_entry(task_id, number))


async def read_entry_bytes(store: BlobStore, task_id: TaskId, number: int) -> bytes:
    """A ledger entry as it was written: what its digest is the digest of. Raises as `read_ledger_entry`."""
    if number == 0:
        return _initial_entry(await read_task(store, task_id))
    try:
        return await store.read(names.ledger_entry(task_id, number))
    except BlobMissing:
        raise VersionNotFound(version=number) from None


def decode_entry(data: bytes, *, name: str) -> LedgerEntry:
    """The entry that these bytes are; `name` is for people. Raises StoredDataDamaged."""
    return _decode(data, LedgerEntry, name=name)


def _initial_entry(record: TaskRecord) -> bytes:
    # Spelled out: what LedgerEntry may gain later must not change the digest that version 1 states.
    rule: Rule = "fork" if record.source else "initial"
    privacy = {"privacy": record.privacy} if record.privacy else {}
    return encode(
        {
            "version": 0,
            "digest": record.initial_digest,
            "base_digest": "",
            "create_time": record.create_time,
            "task_id": record.task.task_id,
            "rule": rule,
            "previous": record.source.entry_digest if record.source else "",
            "source": record.source,
            **privacy,
        }
    )


async def find_weights(store: BlobStore, task_id: TaskId, entry: LedgerEntry) -> tuple[str, int]:
    """Where the weights of a version are, and how large.

    Raises VersionNotFound where they are no longer kept, StoredDataDamaged where they should be there.
    """
    name = names.weights_of_version(task_id, entry.version, entry.digest)
    for blob in (name, names.weights(task_id, entry.digest)):
        try:
            return blob, await store.size(blob)
        except BlobMissing:
            continue
    raise await missing_weights(store, task_id, entry)


async def missing_weights(store: BlobStore, task_id: TaskId, entry: LedgerEntry) -> VersionNotFound | StoredDataDamaged:
    """Why the weights of a version are not there."""
    if 0 < entry.version < await oldest_kept(store, task_id):
        return VersionNotFound(version=entry.version)
    return StoredDataDamaged(name=names.weights_of_version(task_id, entry.version, entry.digest))


async def read_weights(store: BlobStore, task_id: TaskId, entry: LedgerEntry) -> bytes:
    """The weights of a version, checked. Raises VersionNotFound, StoredDataDamaged."""
    name, _ = await find_weights(store, task_id, entry)
    try:
        weights = await store.read(name)
    except BlobMissing:
        raise await missing_weights(store, task_id, entry) from None
    if hashlib.sha256(weights).hexdigest() != entry.digest:
        raise StoredDataDamaged(name=name)
    return weights


async def read_rollback(store: BlobStore, task_id: TaskId, request_id: str) -> LedgerEntry | None:
    """The version that a request to roll back made; None where it has made none."""
    try:
        rollback = await _read(store, names.rollback(task_id, request_id), Rollback)
        entry = await read_ledger_entry(store, task_id, rollback.version)
    except (BlobMissing, VersionNotFound, StoredDataDamaged):  # a marker that was torn is none
        return None
    return entry if entry.request_id == request_id else None


async def oldest_kept(store: BlobStore, task_id: TaskId) -> int:
    """From this version on the weights of all are kept, and of those before only where they are pinned."""
    bounds = await store.list(names.bounds_of_kept(task_id))
    return int(bounds[-1].rsplit("/", 1)[1]) if bounds else 0


async def write_version(
    store: BlobStore, task_id: TaskId, weights: Buffer, entry: LedgerEntry, *, replace: bool = False
) -> None:
    """Writes the weights, then the entry that makes them a version. Writing the same version twice is harmless.

    Raises BlobExists where there is another entry already: versions do not change. `replace` is
    for one that is not whole (`blobstore.whole`), and so is no version.
    """
    await store.keep(names.weights_of_version(task_id, entry.version, entry.digest), [weights], digest=entry.digest)
    name, data = names.ledger_entry(task_id, entry.version), encode(entry)
    try:
        await store.write(name, [data], replace=replace)
    except BlobExists:
        if await store.read(name) != data:
            raise


async def write_task(
    store: BlobStore,
    task: Task,
    model: Model,
    weights: StagedBlob,
    *,
    request_id: str,
    now: float,
    source: Source | None = None,
    privacy: PrivacyAccount | None = None,
) -> TaskRecord:
    """Publishes the weights, writes the model, then the record that makes them a task. Raises BlobExists."""
    model_json = encode(model)
    record = TaskRecord(
        task=task,
        create_time=now,
        model_digest=hashlib.sha256(model_json).hexdigest(),
        initial_digest=weights.digest,
        request_id=request_id,
        source=source,
        privacy=privacy,
    )
    await weights.publish(names.weights(task.task_id, record.initial_digest))
    await store.write(names.model(task.task_id, record.model_digest), [model_json])
    await store.settle()  # before the record: a task that exists has all of this
    await store.write(names.task_record(task.task_id), [encode(record)], replace=False)
    await store.settle()
    return record
