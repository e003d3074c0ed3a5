"""Files that were slots once and are kept to be slots again.

Writing over a file costs a fraction of writing a new one, whose pages the system must find first (8 MB, measured:
0.3 ms against 1.6, and against 10 in a virtual machine that has never touched them). Every round needs two slots
at every replica, and those of the round before are deleted.

Knows paths and sizes. Methods may raise OSError.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress

SPARE_BYTES = 256 << 20


class SpareFiles:
    """Those of one process, in a folder on the disk of the slots."""

    def __init__(self, folder: str, *, limit_bytes: int = SPARE_BYTES) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._spare: list[tuple[str, int]] = []

    def use(self, path: str) -> None:
        """Before a slot is written: where there is no such file, it begins as a spare one, and with its bytes."""
        if not self._spare or os.path.exists(path):
            return
        spare, size = self._spare.pop()
        self._bytes -= size
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with suppress(FileNotFoundError):  # the folder was removed at this moment, or the file: it begins as a new one
            os.rename(spare, path)

    def keep(self, path: str) -> None:
        """Before a slot is deleted: where there is room for it, it is taken away instead."""
        with suppress(FileNotFoundError, NotADirectoryError):
            size = os.stat(path).st_size
            if self._bytes + size > self._limit_bytes:
                return
            spare = f"{self._folder}/{secrets.token_hex(16)}"
            os.rename(path, spare)
            self._spare.append((spare, size))
            self._bytes += size

    def close(self) -> None:
        """Deletes them."""
        for spare, _ in self._spare:
            with suppress(FileNotFoundError):
                os.unlink(spare)
        self._spare.clear()
        self._bytes = 0
