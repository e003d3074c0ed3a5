"""One look-up for all who ask for the same while it has not begun; knows nothing of what is looked up.

Whoever asks after a look-up began waits for the next one: nobody is told what was true before they asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Found = TypeVar("Found")


class SharedLookup(Generic[Found]):
    """At any time at most one look-up per key runs, and at most one waits to run."""

    def __init__(self, look_up: Callable[[str], Awaitable[Found]]) -> None:
        self._look_up = look_up
        self._running: dict[str, asyncio.Task[Found]] = {}
        self._waiting: dict[str, asyncio.Task[Found]] = {}

    async def find(self, key: str) -> Found:
        """What the look-up finds, or what it raises. One who stops waiting does not stop it."""
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = asyncio.create_task(self._after(self._running.get(key), key))
            waiting.add_done_callback(_retrieve)
            self._waiting[key] = waiting
        return await asyncio.shield(waiting)

    async def _after(self, before: asyncio.Task[Found] | None, key: str) -> Found:
        if before is not None:
            await asyncio.wait({before})
        this = self._waiting.pop(key)
        self._running[key] = this
        try:
            return await self._look_up(key)
        finally:
            if self._running.get(key) is this:
                del self._running[key]


def _retrieve(done: asyncio.Task[Found]) -> None:
    if not done.cancelled():
        done.exception()  # whoever still waits has it; nobody may be waiting
