"""Bodies that were costly to make, each made once: by (what for, version), within a bound on bytes.

Keeps at most the two newest versions of anything, so that it does not grow with
the rounds. Knows nothing of what a body is but its size.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

VERSIONS_KEPT = 2

Body = TypeVar("Body")


class BodyCache(Generic[Body]):
    """`key` says what for (task and dialect, say); the version comes beside it, so that older ones can make room."""

    def __init__(self, *, max_bytes: int, size: Callable[[Body], int]) -> None:
        self._max_bytes = max_bytes
        self._size = size
        self._bodies: OrderedDict[tuple[str, str, int], Body] = OrderedDict()
        self._bytes = 0
        self._being_made: dict[tuple[str, str, int], asyncio.Task[Body]] = {}

    def get(self, task_id: str, form: str, version: int) -> Body | None:
        body = self._bodies.get((task_id, form, version))
        if body is not None:
            self._bodies.move_to_end((task_id, form, version))
        return body

    def newest(self, task_id: str, form: str) -> tuple[int, Body] | None:
        """The newest version that is here, with its number."""
        versions = self._versions(task_id, form)
        return (versions[-1], self._bodies[task_id, form, versions[-1]]) if versions else None

    def put(self, task_id: str, form: str, version: int, body: Body) -> None:
        """Room is made by dropping old versions of the same, then what was not asked for longest."""
        self._drop((task_id, form, version))
        self._bodies[task_id, form, version] = body
        self._bytes += self._size(body)
        for old in self._versions(task_id, form)[:-VERSIONS_KEPT]:
            self._drop((task_id, form, old))
        while self._bytes > self._max_bytes and len(self._bodies) > 1:
            self._drop(next(iter(self._bodies)))

    async def get_or_make(self, task_id: str, form: str, version: int, make: Callable[[], Awaitable[Body]]) -> Body:
        """The body, made once however many ask at the same time. One who stops waiting does not stop the making."""
        if (body := self.get(task_id, form, version)) is not None:
            return body
        key = (task_id, form, version)
        making = self._being_made.get(key)
        if making is None:
            making = asyncio.create_task(self._make(key, make))
            self._being_made[key] = making
            making.add_done_callback(lambda done: self._made(key, done))
        return await asyncio.shield(making)

    async def _make(self, key: tuple[str, str, int], make: Callable[[], Awaitable[Body]]) -> Body:
        body = await make()
        self.put(*key, body)
        return body

    def _made(self, key: tuple[str, str, int], making: asyncio.Task[Body]) -> None:
        del self._being_made[key]
        if not making.cancelled():
            making.exception()  # whoever still waits has it; nobody may be waiting

    def _versions(self, task_id: str, form: str) -> list[int]:
        return sorted(version for task, of, version in self._bodies if task == task_id and of == form)

    def _drop(self, key: tuple[str, str, int]) -> None:
        body = self._bodies.pop(key, None)
        if body is not None:
            self._bytes -= self._size(body)
