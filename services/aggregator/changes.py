"""News of rounds: the hints of the round store, handed to whoever waits for one.

Knows no rounds. A hint says "read again, unless you have seen this", so any number of them may be lost or
become one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from learning.ids import TaskId
from learning.refusals import StoreUnavailable
from roundstore.store import Hint, RoundStore

RETRY_S = 0.5
_log = structlog.stdlib.get_logger("aggregator")


class Changes:
    """The hints of one store."""

    def __init__(self, store: RoundStore) -> None:
        self._store = store
        self._newest: dict[TaskId, tuple[str, int]] = {}
        self._next: dict[TaskId, asyncio.Event] = {}
        self._due: dict[TaskId, asyncio.Event] = {}

    def next(self, task_id: TaskId) -> asyncio.Event:
        """Is set at the task's next change. Take it, then read the round, then wait: so no change is missed."""
        return self._next.setdefault(task_id, asyncio.Event())

    def newest(self, task_id: TaskId) -> tuple[str, int] | None:
        """Epoch and revision that the last hint told of; None: it told of none, or there was none yet."""
        return self._newest.get(task_id)

    def announce(self, task_id: TaskId) -> None:
        """Wakes everybody who waits for this task."""
        if event := self._next.pop(task_id, None):
            event.set()

    def due(self, task_id: TaskId) -> asyncio.Event:
        """Is set when a change at this very replica made the round due; as `next`."""
        return self._due.setdefault(task_id, asyncio.Event())

    def announce_due(self, task_id: TaskId) -> None:
        """As `announce`, and there is something to be done at once."""
        self.announce(task_id)
        if event := self._due.pop(task_id, None):
            event.set()

    async def follow(self, noticed: Callable[[Hint], None]) -> None:
        """Passes the store's hints on for ever; `noticed` is told of each, too. Waits while there is no store."""
        said = False
        while True:
            try:
                async for hint in self._store.watch():
                    said = False
                    self._newest.pop(hint.task_id, None)
                    if hint.seen_at is not None:
                        self._newest[hint.task_id] = hint.seen_at
                    self.announce(hint.task_id)
                    noticed(hint)
            except StoreUnavailable:
                if not said:
                    _log.warning("store.unavailable", waits_for="hints")
                said = True
                await asyncio.sleep(RETRY_S)


async def either(event: asyncio.Event, *, seconds: float) -> None:
    """Returns when the event is set, or after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
