"""Which versions are whole. Knows the blob store; nothing of rounds.

What was written in the last second before a loss of power may be missing, empty or cut off,
one file of a version and not the other, one version and not the next. A version is whole where

    its entry     states its number, and the digest of the entry before it
    its weights   have their digest, or are no longer kept
    its state     has its digest, where the rule goes on with one

and it is the newest to go on from where its weights are there and all that the power
could have taken before it is whole, too. What a process that lives has written is whole, as readers
see it: so whoever has found the history of a task whole needs not look again.
"""

from __future__ import annotations

import structlog

from blobstore import ledger, names, records
from blobstore.digests import is_lost
from blobstore.records import LedgerEntry
from blobstore.store import BlobStore
from learning.ids import TaskId
from learning.refusals import StoredDataDamaged, VersionNotFound

UNSAFE_S = 10.0
"""What was written so long before something else is safe from a loss of power that followed."""
_log = structlog.stdlib.get_logger("blobstore")


class Heads:
    """Finds the newest versions of tasks."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._whole: set[TaskId] = set()
        self._said: set[tuple[TaskId, int]] = set()

    async def newest(self, task_id: TaskId) -> int:
        """The number of the newest version that can be gone on from; 0 where nothing was trained yet."""
        newest = await records.newest_version(self._store, task_id)
        if task_id in self._whole:
            return newest
        whole = await newest_whole(self._store, task_id, newest)
        if whole == newest:
            self._whole.add(task_id)
        elif (task_id, newest) not in self._said:
            self._said.add((task_id, newest))
            _log.error("version.torn", task_id=task_id, newest=newest, newest_whole=whole)
        return whole


async def newest_whole(store: BlobStore, task_id: TaskId, number: int) -> int:
    """The newest version up to `number` that can be gone on from."""
    found: LedgerEntry | None = None
    for version in range(number, 0, -1):
        entry = await _linked_entry(store, task_id, version)
        if entry is None:
            found = None  # and those behind it hang in the air
        elif found is None:
            can_be_read = await _has_weights(store, task_id, entry, may_be_gone=False)
            found = entry if can_be_read and await _has_state(store, task_id, entry) else None
        if found is not None and entry is not None and entry.create_time < found.create_time - UNSAFE_S:
            break  # and the version before this one is older still
    return found.version if found else 0


async def is_whole(store: BlobStore, task_id: TaskId, number: int) -> bool:
    """Whether there is such a version, and it is whole. Without its state it is, where a whole one follows it."""
    while True:
        entry = await _linked_entry(store, task_id, number)
        if entry is None or not await _has_weights(store, task_id, entry, may_be_gone=True):
            return False
        if await _has_state(store, task_id, entry):
            return True
        number += 1


async def _linked_entry(store: BlobStore, task_id: TaskId, number: int) -> LedgerEntry | None:
    """None where it is missing or torn, or is that of a history that is gone."""
    try:
        entry = await records.read_ledger_entry(store, task_id, number)
        if number == 0:
            return entry
        before = await records.read_entry_bytes(store, task_id, number - 1)
    except (VersionNotFound, StoredDataDamaged):
        return None
    fits = entry.version == number and entry.previous in ("", ledger.digest_of_entry(before))
    return entry if fits else None


async def _has_weights(store: BlobStore, task_id: TaskId, entry: LedgerEntry, *, may_be_gone: bool) -> bool:
    try:
        weights, _ = await records.find_weights(store, task_id, entry)
    except VersionNotFound:
        return may_be_gone
    except StoredDataDamaged:
        return False
    return not await is_lost(store, weights, entry.digest)


async def _has_state(store: BlobStore, task_id: TaskId, entry: LedgerEntry) -> bool:
    """Or needs none."""
    state = names.rule_state(task_id, entry.version, entry.state_digest or "none")
    return not entry.state_digest or not await is_lost(store, state, entry.state_digest)
