"""How an event loop calls the disk: slow calls in a thread, and what goes wrong in our words. Knows no blobs."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from blobstore.store import StoreFull
from learning.refusals import StoreUnavailable

Result = TypeVar("Result")

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
INLINE_BYTES = 256 * 1024
"""Up to here a file is read or written faster (8 to 25 µs) than a thread takes over and gives back (70 µs)."""


@contextmanager
def faults() -> Iterator[None]:
    """Raises StoreUnavailable for what the disk raises, StoreFull where it is full."""
    try:
        yield
    except OSError as fault:  # no space, no permission, a broken disk
        raise StoreFull if fault.errno in _NO_ROOM else StoreUnavailable from fault


async def in_thread(work: Callable[[], Result]) -> Result:
    """Runs blocking work in a thread. Where the caller is cancelled, it goes only once the work is done.

    Otherwise a write that nobody waits for could still change a slot that is already written again.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError:
                continue
        running.exception()  # is taken note of; nobody is left to tell
        raise
