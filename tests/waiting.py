"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

POLL_S = 0.01


async def eventually(holds: Callable[[], Awaitable[object]], deadline: float = 10.0) -> None:
    """Returns once `holds` gives something true; fails after `deadline` seconds."""
    over = time.monotonic() + deadline
    while not await holds():
        if time.monotonic() > over:
            raise AssertionError(f"{holds} did not come true within {deadline:g} seconds")
        await asyncio.sleep(POLL_S)
