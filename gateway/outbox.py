"""What is still to be written to one socket: a queue with bounds, so that a slow reader costs nobody but itself.

Nothing is ever dropped or replaced: every frame answers a question of the client
or is a signal. One that does not fit means that the client does not read, and
ends its socket. Knows neither frames nor sockets.
"""

from __future__ import annotations

import asyncio
from collections import deque

from learning.refusals import SlowConsumer


class Outbox:
    """One producer's queue and one writer. A single frame fits always, whatever its size, where the box is empty."""

    def __init__(self, *, max_frames: int, max_bytes: int) -> None:
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()

    def put(self, frame: bytes) -> None:
        """Never waits. Raises SlowConsumer where the box is full."""
        if self._frames and (len(self._frames) >= self._max_frames or self._bytes + len(frame) > self._max_bytes):
            raise SlowConsumer
        self._frames.append(frame)
        self._bytes += len(frame)
        self._filled.set()

    async def get(self) -> bytes:
        """The next frame to write, once there is one."""
        await self._filled.wait()
        frame = self._frames.popleft()
        self._bytes -= len(frame)
        if not self._frames:
            self._filled.clear()
        return frame
