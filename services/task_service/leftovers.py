"""Deletes what nobody needs any more and nobody deleted. Knows the blob store.

    of deleted tasks        at once after a deletion, at every start, and for an hour again and again: an
                            aggregator that was closing a round may still write a version of it
    of broken creations     a model or weights without a record, and the marks of creations and clearings whose
                            process was killed (`blobstore.creations`), once this process has seen them for an hour
    of broken writers       what the store itself knows of (`BlobStore.sweep`)

Any replica may do it, also two at once. What a creation that goes on is about to publish is never swept: its mark
keeps it, and no creation takes an hour. The hour is that of one process which has looked on all the time, so
that no clock of another host and no task that is being restored from a copy can be mistaken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import structlog

from blobstore import creations, names, task_updates
from blobstore.store import BlobStore
from learning.ids import TaskId
from learning.refusals import Fault

LOOK_AGAIN_S = 60.0
QUIET_S = 3600.0

_log = structlog.stdlib.get_logger("task_service")


class Leftovers:
    """`clock` tells seconds since the epoch."""

    def __init__(self, store: BlobStore, *, clock: Callable[[], float], look_again_s: float = LOOK_AGAIN_S) -> None:
        self._store = store
        self._clock = clock
        self._look_again_s = look_again_s
        self._settled: set[TaskId] = set()
        self._deleted = asyncio.Event()
        self._seen: dict[str, float] = {}
        """Since when what may be left over has been there."""

    def announce(self) -> None:
        """A task was deleted just now."""
        self._deleted.set()

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            self._deleted.clear()
            try:
                await self.sweep()
            except Fault as fault:
                _log.warning("leftovers.kept", because=str(fault))
            try:
                async with asyncio.timeout(self._look_again_s):
                    await self._deleted.wait()
            except TimeoutError:
                pass

    async def sweep(self) -> None:
        """Goes through everything that may be left over. Raises StoreUnavailable."""
        await self._sweep_deleted()
        await self._sweep_creations()
        await self._store.sweep()

    async def _sweep_deleted(self) -> None:
        for task_id in await task_updates.list_deleted(self._store):
            if task_id in self._settled:
                continue
            deleted = await task_updates.forget(self._store, task_id)
            if deleted:
                _log.info("task.forgotten", task_id=task_id, blobs=deleted)
                continue
            deletion = await task_updates.find_deletion(self._store, task_id)
            if deletion is None or self._clock() > deletion.delete_time + QUIET_S:
                self._settled.add(task_id)

    async def _sweep_creations(self) -> None:
        marks = [name for folder in (names.CREATIONS, names.CLEARINGS) for name in await self._store.list(folder)]
        unfinished = await creations.list_unfinished(self._store)
        old = self._seen_for_long([*marks, *map(names.task, unfinished)])
        for mark in old.intersection(marks):
            await self._store.delete(mark)
        for task_id in unfinished:
            if names.task(task_id) in old:
                cleared = await creations.clear(self._store, task_id)
                if cleared:
                    _log.info("creation.cleared", task_id=task_id, blobs=cleared)

    def _seen_for_long(self, found: Collection[str]) -> set[str]:
        now = self._clock()
        self._seen = {name: self._seen.get(name, now) for name in found}
        return {name for name, since in self._seen.items() if now > since + QUIET_S}
