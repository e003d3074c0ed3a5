"""The data directory: created where it is missing, and used by one launcher at a time.

Knows nothing of what lies in it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from disco_server.cannot_start import CannotStart

LOCK_NAME = "lock"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the directory until the block ends, or the process does, however it ends. Raises CannotStart."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / LOCK_NAME).open("a+", encoding="ascii")
    except OSError as error:
        raise CannotStart(
            f"The data directory {directory} cannot be used ({error.strerror}): choose another with DISCO_DATA_DIR."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise CannotStart(
                f"The data directory {directory} is already used by process {lock.read().strip() or 'unknown'}: "
                "stop that one, or choose another directory with DISCO_DATA_DIR."
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
