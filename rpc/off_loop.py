"""Long computations beside the event loop, short ones on it. Knows nothing of what is computed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

LONG_BYTES = 1 << 20
"""From here on the work takes longer than handing it to a thread does."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


async def off_loop(
    size: int, compute: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """What `compute` returns; in a thread where it goes over `size` bytes that are many."""
    if size < LONG_BYTES:
        return compute(*args, **kwargs)
    return await asyncio.to_thread(compute, *args, **kwargs)
