"""Long computations beside the event loop, short ones on it. Knows nothing of what is computed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

LONG_BYTES = 1 << 20
"""From here on the work takes longer than handing it to a thread does."""

PIECES = min(4, os.cpu_count() or 1)
"""In which a long computation is done side by side, where it can be split."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def is_long(size: int) -> bool:
    """Whether going over so many bytes is work for a thread."""
    return size >= LONG_BYTES


async def off_loop(
    size: int, compute: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """What `compute` returns; in a thread where it goes over `size` bytes that are many."""
    if not is_long(size):
        return compute(*args, **kwargs)
    return await asyncio.to_thread(compute, *args, **kwargs)


async def side_by_side(size: int, split: Callable[[int], Sequence[Callable[[], None]]]) -> None:
    """Does all pieces that `split` makes of the work; at once, where it goes over `size` bytes that are many."""
    await asyncio.gather(*(off_loop(size, piece) for piece in split(PIECES if is_long(size) else 1)))
