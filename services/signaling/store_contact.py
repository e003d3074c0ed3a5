"""Whether the store answers, and since when without a break.

Says once in the log that it was lost, and once that it is back. Knows nothing of what is kept there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from learning.refusals import StoreUnavailable

_log = structlog.stdlib.get_logger("signaling")


class StoreContact:
    """One replica's view of the store."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: float | None = None
        self._lost = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around every use of the store."""
        try:
            yield
        except StoreUnavailable:
            self.lose()
            raise
        if self._since is None:
            self._since = self._clock()
        if self._lost:
            self._lost = False
            _log.info("store.found")

    def lose(self) -> None:
        """The store did not answer, or hung up."""
        self._since = None
        if not self._lost:
            self._lost = True
            _log.warning("store.lost", consequence="streams stay open; what needs the store is tried again")

    def steady_at(self, steady_s: float) -> float | None:
        """When the store will have answered for that long without a break; None while it does not."""
        return None if self._since is None else self._since + steady_s
