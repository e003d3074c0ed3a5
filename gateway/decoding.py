"""When and where frames are decoded: cheaply, and keeping nobody else waiting. Knows nothing of frames but their size.

    small     at once
    medium    on the event loop, too, as many as fit in LOOP_HELD_S; then the loop goes round before the next
    large     in a thread

Decoding is dozens of short steps of NumPy. In a thread each of them is followed by a fight with the event loop for the
interpreter's lock, which costs a medium frame nearly as much as its decoding. And what is decoded without a pause goes
to an aggregator at the same moment, which commits it as one group: of frames that come at once the loop had better
decode many than one (docs/benchmarks.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Final, TypeVar

from rpc.off_loop import LONG_BYTES, off_loop

MEDIUM_BYTES: Final = LONG_BYTES
LARGE_BYTES: Final = 3 << 19
"""The worst frame below it keeps the loop for about as long as it would from a thread: reading a million numbers that
are spelled in many ways holds the interpreter's lock to its end."""
LOOP_HELD_S: Final = 0.02

Message = TypeVar("Message")


class Decoding:
    """One per gateway: its sockets share the loop. `clock` tells seconds, exactly."""

    def __init__(self, *, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._held_s = 0.0
        """How long medium frames have been decoded for since the loop went round."""

    async def decoded(self, frame: bytes, decode: Callable[[bytes], Message]) -> Message:
        """What `decode` makes of a frame, or raises."""
        if not MEDIUM_BYTES <= len(frame) < LARGE_BYTES:
            return await off_loop(len(frame), decode, frame)
        while self._held_s >= LOOP_HELD_S:  # noqa: ASYNC110 (what is waited for is the loop itself)
            await asyncio.sleep(0)  # those who wait go on in the order in which they came
        if not self._held_s:
            asyncio.get_running_loop().call_soon(self._went_round)
        began = self._clock()
        try:
            return decode(frame)
        finally:
            self._held_s += self._clock() - began

    def _went_round(self) -> None:
        self._held_s = 0.0
