"""What clients of an address spoke last: the weakest of all signs, kept for some minutes and for so many addresses.

Knows no request and no clock: the moment is passed in.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MAX_ADDRESSES: Final = 10_000
"""Of more, the one that showed what it speaks longest ago is forgotten."""


class DialectMemory:
    """`kept_s` is for how many seconds an address is remembered; 0: not at all."""

    def __init__(self, *, kept_s: float, max_addresses: int = MAX_ADDRESSES) -> None:
        self._kept_s = kept_s
        self._max_addresses = max_addresses
        self._spoken: OrderedDict[str, tuple[float, str]] = OrderedDict()
        """The end of the time for which it counts, and the dialect; the oldest first."""

    def __len__(self) -> int:
        return len(self._spoken)

    def remember(self, address: str, dialect: str, *, now: float) -> None:
        """An address showed what it speaks. An empty address is nobody's."""
        self._forget_old(now)
        if not address or not self._kept_s:
            return
        self._spoken[address] = now + self._kept_s, dialect
        self._spoken.move_to_end(address)
        if len(self._spoken) > self._max_addresses:
            self._spoken.popitem(last=False)

    def recall(self, address: str, *, now: float) -> str:
        """What it spoke last, or "". Asking does not make it last longer."""
        self._forget_old(now)
        return self._spoken[address][1] if address in self._spoken else ""

    def _forget_old(self, now: float) -> None:
        while self._spoken and next(iter(self._spoken.values()))[0] <= now:
            self._spoken.popitem(last=False)
