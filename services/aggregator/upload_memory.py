"""How many bytes of contributions may be held at once. Knows sizes only."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class UploadMemory:
    """A number of bytes, lent out in the order in which they are asked for."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lent = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def lent(self) -> int:
        return self._lent

    @asynccontextmanager
    async def lend(self, size: int) -> AsyncIterator[None]:
        """Waits until there is room, and holds it while the block runs. What is larger than all counts as all."""
        size = min(size, self._capacity)
        await self._wait(size)
        try:
            yield
        finally:
            self._lent -= size
            self._serve()

    async def _wait(self, size: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, turn)
        self._queue.append(entry)
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the turn came in the same moment
                self._lent -= size
            elif entry in self._queue:
                self._queue.remove(entry)
            self._serve()
            raise

    def _serve(self) -> None:
        while self._queue and self._lent + self._queue[0][0] <= self._capacity:
            size, turn = self._queue.popleft()
            if not turn.cancelled():
                self._lent += size
                turn.set_result(None)
