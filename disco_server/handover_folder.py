"""The folder in memory in which the processes of one launcher hand weights to each other.

Where the system has none that a program may use, there is none: then weights are streamed. Knows folders only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (a folder of our own is made in it, which nobody else may enter)
"""Linux: a file system in memory that everybody may write to."""


@contextmanager
def handover_folder(memory: Path = SHARED_MEMORY) -> Iterator[Path | None]:
    """A new folder that only this user may enter, while the block runs; None where there is no such memory."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="disco-", dir=memory, ignore_cleanup_errors=True)
    except OSError:
        yield None
        return
    with folder as path:
        yield Path(path)
