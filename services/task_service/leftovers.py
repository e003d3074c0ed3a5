"""Deletes what is still kept of tasks that were deleted. Knows the blob store.

At once after a deletion, at every start, and for an hour again and again: an aggregator that was
closing a round may still write a version of it. Any replica may do it, also two at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from blobstore import task_updates
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
        """Goes through all deletions that may have left something. Raises StoreUnavailable."""
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
