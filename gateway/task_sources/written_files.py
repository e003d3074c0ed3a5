"""What it means that a file of ours could not be written."""

from __future__ import annotations

import errno

from learning.refusals import Fault, StorageFull, StoreUnavailable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def not_written(error: OSError) -> Fault:
    """A full disk is said as such: trying again at once is of no use."""
    return StorageFull() if error.errno in _FULL else StoreUnavailable()
