"""Puts large frames where they stay as they come, from the network or straight from the socket.

What websockets does with a stream is to append every read to one growing buffer, which is moved again and again while
it grows, and to copy the frame out of it: for frames of 4 MB, a quarter of the gateway's whole work. Knows nothing of
frames but that somebody wants an exact number of bytes.

The place of a frame is reserved as a whole and not touched before bytes come: a system gives memory out by the page,
when it is written to, so a frame that is merely announced takes none.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, cast

import numpy as np
from websockets.streams import StreamReader

COLLECTED_FROM_BYTES = 64 << 10

_NOTHING: Final = memoryview(b"")


class CollectingReader(StreamReader):
    """A StreamReader, except that what a large `read_exact` waits for never goes through its buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.rest = _NOTHING
        """The place of what a large read still lacks. Who fills its beginning says so with `filled`."""

    def read_exact(self, n: int) -> Generator[None, None, bytearray]:
        if n < COLLECTED_FROM_BYTES:
            return (yield from super().read_exact(n))
        frame = np.empty(n, np.uint8).data
        begun = min(n, len(self.buffer))
        frame[:begun] = self.buffer[:begun]
        del self.buffer[:begun]
        self.rest = frame[begun:]
        while self.rest:
            if self.eof:
                raise EOFError(f"stream ends after {n - len(self.rest)} bytes, expected {n} bytes")
            yield
        # Taking off the mask makes new bytes of it, and reads any buffer.
        return cast(bytearray, frame)

    def filled(self, count: int) -> None:
        """So many bytes of `rest` have come."""
        self.rest = self.rest[count:]

    def feed_data(self, data: bytes | bytearray) -> None:
        if not self.rest or self.eof:
            super().feed_data(data)
            return
        wanted = min(len(data), len(self.rest))
        self.rest[:wanted] = memoryview(data)[:wanted]
        self.filled(wanted)
        if wanted < len(data):
            super().feed_data(data[wanted:])

    def at_eof(self) -> Generator[None, None, bool]:
        # Asked between two frames only, or when nobody wants the rest of one any more.
        self.rest = _NOTHING
        return (yield from super().at_eof())

    def discard(self) -> None:
        self.rest = _NOTHING
        super().discard()
