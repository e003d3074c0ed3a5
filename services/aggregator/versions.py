"""Versions as they are read out: found, and streamed while their digest is checked. Knows the blob store only."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from blobstore import records
from blobstore.records import LedgerEntry, WeightSpec
from blobstore.store import BlobMissing, BlobStore
from learning.ids import TaskId
from learning.refusals import StoredDataDamaged
from rpc.chunks import CHUNK_BYTES, chunks_of
from services.aggregator.rounds import Rounds


@dataclass(frozen=True, slots=True)
class Version:
    """A version without its weights."""

    task_id: TaskId
    entry: LedgerEntry
    weight_specs: tuple[WeightSpec, ...]
    blob: str
    digest: str
    size: int
    """In bytes."""

    @property
    def number(self) -> int:
        return self.entry.version


class Versions:
    """The versions of all tasks."""

    def __init__(self, blobs: BlobStore, rounds: Rounds) -> None:
        self._blobs = blobs
        self._rounds = rounds

    async def find(self, task_id: TaskId, number: int | None) -> Version:
        """None: the newest. Raises TaskNotFound, VersionNotFound, StoredDataDamaged."""
        known = await self._rounds.task(task_id)
        if number is None:
            number = await self._rounds.newest_version(task_id)
        entry = await records.read_ledger_entry(self._blobs, task_id, number)
        blob, size = await records.find_weights(self._blobs, task_id, entry)
        if size != known.model_bytes:
            raise StoredDataDamaged(name=blob)
        return Version(
            task_id=task_id, entry=entry, weight_specs=known.weight_specs, blob=blob, digest=entry.digest, size=size
        )

    def fresh(self, version: Version) -> memoryview | None:
        """The weights, where this replica has them in memory still."""
        return self._rounds.fresh.find(version.task_id, version.digest)

    async def chunks(self, version: Version) -> AsyncGenerator[bytes, None]:
        """The weights. Raises StoredDataDamaged, after the last chunk, where they do not have their digest.

        Raises VersionNotFound, before the first one, where they have been deleted since they were found.
        """
        fresh = self.fresh(version)
        if fresh is not None:
            for fresh_chunk in chunks_of(fresh):
                yield fresh_chunk
            return
        digest = hashlib.sha256()
        try:
            async for chunk in self._blobs.read_chunks(version.blob, chunk_size=CHUNK_BYTES):
                digest.update(chunk)
                yield chunk
        except BlobMissing:
            raise await records.missing_weights(self._blobs, version.task_id, version.entry) from None
        if digest.hexdigest() != version.digest:
            raise StoredDataDamaged(name=version.blob)
