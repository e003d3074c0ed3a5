"""News of tasks for whoever watches them: a snapshot, then what differs each time the tasks were read again.

Hints say when to read; nothing of what they say is trusted, and without any the tasks are read every
few seconds. One reading serves all who watch here. Knows no gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

import structlog

from blobstore.records import TaskRecord
from learning.ids import TaskId
from learning.refusals import StoreUnavailable
from roundstore.task_hints import TaskHints

LOOK_AGAIN_S = 10.0
RECONNECT_S = 0.5
CALM_S = 0.02
"""Hints that come so close to each other are one."""

Roster = Mapping[TaskId, TaskRecord | None]
"""Every task that is there; None: its record is damaged."""

_log = structlog.stdlib.get_logger("task_service")


@dataclass(frozen=True, slots=True)
class TaskNewsItem:
    """One thing to be told; `record` is None where a task was deleted, and at the end of the snapshot."""

    kind: Literal["present", "snapshot_complete", "created", "updated", "deleted"]
    task_id: str = ""
    record: TaskRecord | None = None


class TaskNews:
    """`read` gives all tasks; `hints` say when that may be worth while."""

    def __init__(
        self, read: Callable[[], Awaitable[Roster]], hints: TaskHints, *, look_again_s: float = LOOK_AGAIN_S
    ) -> None:
        self._read = read
        self._hints = hints
        self._look_again_s = look_again_s
        self._reading = asyncio.Lock()
        self._hinted = asyncio.Event()
        self._generation = 0
        self._read_at = -1
        self._roster: Roster = {}
        self._announcing: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Follows the hints until cancelled. Waits while they cannot be had."""
        looking = asyncio.create_task(self._look_again())
        said = False
        try:
            while True:
                try:
                    async with aclosing(self._hints.watch()) as hints:
                        async for _ in hints:
                            said = False
                            self._wake()
                except StoreUnavailable:
                    if not said:
                        _log.warning("task_hints.unavailable", look_again_s=self._look_again_s)
                    said = True
                await asyncio.sleep(RECONNECT_S)
        finally:
            looking.cancel()
            await asyncio.gather(looking, *self._announcing, return_exceptions=True)

    def announce(self, task_id: TaskId) -> None:
        """A task was created, updated or deleted here. Nobody waits until the others have heard of it."""
        self._wake()
        announcing = asyncio.create_task(self._announce(task_id))
        self._announcing.add(announcing)
        announcing.add_done_callback(self._announcing.discard)

    async def watch(self) -> AsyncGenerator[TaskNewsItem, None]:
        """Every task that is there, then every change, without end. Raises StoreUnavailable."""
        hinted = self._hinted
        seen = dict(await self._newest())
        for task_id, record in seen.items():
            if record is not None:
                yield TaskNewsItem("present", task_id, record)
        yield TaskNewsItem("snapshot_complete")
        while True:
            await hinted.wait()
            await asyncio.sleep(CALM_S)
            hinted = self._hinted
            now = await self._newest()
            for item in _changes(seen, now):
                yield item
            # What is damaged for the moment is neither new nor gone.
            seen = {task_id: record or seen.get(task_id) for task_id, record in now.items()}

    async def _newest(self) -> Roster:
        """The tasks as they were read after the last hint at the earliest."""
        wanted = self._generation
        async with self._reading:
            if self._read_at < wanted:
                reading = self._generation
                self._roster = await self._read()
                self._read_at = reading
            return self._roster

    def _wake(self) -> None:
        self._generation += 1
        hinted, self._hinted = self._hinted, asyncio.Event()
        hinted.set()

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(self._look_again_s)
            self._wake()

    async def _announce(self, task_id: TaskId) -> None:
        try:
            await self._hints.announce(task_id)
        except StoreUnavailable:
            _log.debug("task_hint.lost", task_id=task_id)


def _changes(before: Roster, after: Roster) -> Iterator[TaskNewsItem]:
    for task_id, record in after.items():
        known = before.get(task_id)
        if record is None or record == known:
            continue
        if known is None:
            yield TaskNewsItem("created", task_id, record)
        elif known.revision < record.revision:
            yield TaskNewsItem("updated", task_id, record)
    for task_id in before.keys() - after.keys():
        yield TaskNewsItem("deleted", task_id)
