"""Which errors of Redis mean that it cannot be used at the moment. The only place that says so.

Everything else (a key of the wrong type, an error inside a script) is a bug and
goes up as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import redis.exceptions

from learning.refusals import StoreUnavailable

_CANNOT_SERVE = ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN")
# redis-py strips the first word of some errors and leaves it on others; where a command failed inside a script,
# the word stands behind the place in the script.
_ERROR_WORD = re.compile(rf"(?:^|@user_script: ?\d+: ?-?)(?:{'|'.join(_CANNOT_SERVE)})\b")
_CANNOT_SERVE_ERRORS = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
)


@contextmanager
def store_faults() -> Iterator[None]:
    """Raises StoreUnavailable for what Redis raises because it cannot serve."""
    try:
        yield
    except _CANNOT_SERVE_ERRORS as fault:
        raise StoreUnavailable from fault
    except redis.exceptions.ResponseError as error:
        if _ERROR_WORD.search(str(error)):
            raise StoreUnavailable from error
        raise
