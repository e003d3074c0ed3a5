"""Tuning of the C allocator for processes that hold whole models in memory.

Buffers of megabytes cost more in page faults than in copying: by default glibc maps
each one afresh and gives its pages back when it is freed (design section 8). Those of large models it
shall map: kept on the heap, they leave holes into which the next one does not fit, and 100 MB take
twice as much for good. Knows glibc only; everywhere else it changes nothing.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
MMAP_THRESHOLD_BYTES = 32 << 20
TRIM_THRESHOLD_BYTES = 512 << 20


def tune_allocator() -> bool:
    """Keeps buffers below 32 MiB on one heap and up to 512 MiB of what is freed for reuse; says whether all took.

    One heap: else every thread that ever held a model would keep room for one of its own.
    """
    if not sys.platform.startswith("linux"):
        return False
    c_library = ctypes.CDLL(None)
    if not hasattr(c_library, "gnu_get_libc_version"):
        return False  # musl has a mallopt that does nothing
    took = [
        c_library.mallopt(_M_ARENA_MAX, 1),
        c_library.mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
        c_library.mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
    ]
    return took == [1, 1, 1]
