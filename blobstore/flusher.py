"""Makes files safe from a loss of power at most a second after they were written.

Knows paths and time, and nothing of what is in the files.
"""

from __future__ import annotations

import asyncio

from blobstore import files

DELAY_S = 0.5
"""Leaves the other half of the second to the disk."""


class Flusher:
    """Remembers which files changed and syncs them together, in a task that lives while there are any."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._changed: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._fault: OSError | None = None
        self._flushing = asyncio.Lock()

    def changed(self, path: str) -> None:
        """Raises OSError where the last sync failed: what was acknowledged then is not safe, so no more may be."""
        self._changed.add(path)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        if self._fault is not None:
            raise OSError("the last sync failed") from self._fault

    async def flush(self) -> None:
        """Syncs now. Raises OSError; the files are then tried again with the next flush."""
        async with self._flushing:  # whoever returns from here has waited for those that somebody else is syncing
            await self._flush()

    async def _flush(self) -> None:
        changed, self._changed = self._changed, set()
        try:
            await asyncio.to_thread(files.sync, changed, self._root)
        except (OSError, asyncio.CancelledError) as stopped:
            self._changed |= changed
            if isinstance(stopped, OSError):
                self._fault = stopped
            raise
        self._fault = None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.flush()

    async def _run(self) -> None:
        while self._changed:
            await asyncio.sleep(DELAY_S)
            try:
                await self.flush()
            except OSError:
                continue  # kept as the fault that the next writer hears of
