"""A machine whose power may fail: what its disk had not synced by then is there, or not, or something else.

    blobs     each file is on the disk as it was synced last, or as it was written since, or torn, empty, missing
    rounds    the append-only file is there up to its last sync, and some of what was written after it

Both are synced once a second or so, and it takes its time. Knows no aggregator: processes are
killed by whoever cuts the power.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from blobstore.store import Buffer
from roundstore.memory_store import MemoryRoundStore
from services.aggregator.open_sums import APART_S
from tests.simulation.promises import LOST_S, RememberingBlobs
from tests.simulation.world import World

BLOBS_AFTER_S = 0.5
ROUNDS_EVERY_S = 1.0
LONGEST_SYNC_S = 0.3
assert LOST_S == ROUNDS_EVERY_S + 2 * LONGEST_SYNC_S + APART_S

_CHANGES = (
    *("open_round", "join", "leave", "expire_leases", "commit_group", "start_closing", "start_restoring"),
    *("finish_closing", "lose_contributions", "lose_version", "set_policy"),
)


class FailingBlobs(RememberingBlobs):
    """Remembers, for each file, what of it is on the disk and what was written since."""

    def __init__(self, world: World, **options: Any) -> None:
        super().__init__(**options)
        self._world = world
        self._synced: dict[str, bytes] = {}
        self._unsynced: dict[str, list[bytes | None]] = {}

    async def write(self, name: str, parts: Sequence[Buffer], *, replace: bool = True) -> None:
        await super().write(name, parts, replace=replace)
        self._note(name)

    async def write_slot(self, name: str, parts: Sequence[Buffer]) -> None:
        try:
            await super().write_slot(name, parts)
        finally:
            self._note(name)

    def tear_slot(self, name: str, parts: Sequence[Buffer]) -> None:
        super().tear_slot(name, parts)
        self._note(name)

    async def delete(self, name: str) -> None:
        await super().delete(name)
        self._note(name)

    async def settle(self) -> None:
        await super().settle()
        self._sync()

    async def keep_on_disk(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(BLOBS_AFTER_S)
            begun = dict(self._unsynced)
            counts = {name: len(contents) for name, contents in begun.items() if contents}
            await asyncio.sleep(self._world.chance.uniform(0, LONGEST_SYNC_S))
            for name, count in counts.items():
                contents = self._unsynced.get(name)
                if contents is begun[name]:
                    self._put_on_disk(name, contents[count - 1])
                    del contents[:count]

    def fail(self) -> None:
        """The power fails, and comes back."""
        for name, contents in sorted(self._unsynced.items()):
            if not contents:
                continue
            left = self._what_is_left([self._synced.get(name), *contents])
            self._blobs.pop(name, None)
            if left is not None:
                self._blobs[name] = left
        self._sync()

    def _what_is_left(self, contents: Sequence[bytes | None]) -> bytes | None:
        chance = self._world.chance
        found = chance.choice(contents)
        newest = next((content for content in reversed(contents) if content is not None), b"")
        cut = chance.randint(0, len(newest))
        return chance.choice((found, found, contents[-1], newest[:cut], newest[:cut] + bytes(len(newest) - cut), b""))

    def _note(self, name: str) -> None:
        self._unsynced.setdefault(name, []).append(self._blobs.get(name))

    def _sync(self) -> None:
        for name in self._unsynced:
            self._put_on_disk(name, self._blobs.get(name))
        self._unsynced = {}

    def _put_on_disk(self, name: str, content: bytes | None) -> None:
        if content is None:
            self._synced.pop(name, None)
        else:
            self._synced[name] = content


class FailingRounds(MemoryRoundStore):
    """Remembers every state since the last sync."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._states = [self._state()]
        self.moved = asyncio.Event()
        """Contributions were committed, or a version was published."""

    async def keep_on_disk(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(ROUNDS_EVERY_S)
            begun, failures = len(self._states) - 1, len(self._world.power_cuts)
            await asyncio.sleep(self._world.chance.uniform(0, LONGEST_SYNC_S))
            if failures == len(self._world.power_cuts):
                del self._states[:begun]

    def fail(self) -> None:
        """The power fails, and comes back."""
        left = self._world.chance.choice(self._states)
        self._tasks = left
        self._states = [self._state()]

    def note(self) -> None:
        self._states.append(self._state())

    def _state(self) -> dict[Any, Any]:
        return {
            task_id: replace(
                kept,
                sums=dict(kept.sums),
                admissions=dict(kept.admissions),
                closed={number: (before, dict(sums)) for number, (before, sums) in kept.closed.items()},
                lost={number: list(lost) for number, lost in kept.lost.items()},
            )
            for task_id, kept in self._tasks.items()
        }


def _noted(name: str) -> Any:
    change = getattr(MemoryRoundStore, name)

    async def method(self: FailingRounds, *args: Any, **kwargs: Any) -> Any:
        answer = await change(self, *args, **kwargs)
        self.note()
        if name in ("commit_group", "finish_closing"):
            self.moved.set()
        return answer

    return method


for _name in _CHANGES:
    setattr(FailingRounds, _name, _noted(_name))
