"""Collects the bytes of large frames as they come, and puts them together once.

What websockets does with a stream is to append every read to one growing buffer, which is moved again and again while
it grows, and to copy the frame out of it: for frames of 4 MB, a quarter of the gateway's whole work. Knows nothing of
frames but that somebody wants an exact number of bytes.
"""

from __future__ import annotations

from collections.abc import Generator

from websockets.streams import StreamReader

COLLECTED_FROM_BYTES = 64 << 10
SMALL_BYTES = 4 << 10
"""Reads below it are put together at once: as objects of their own they would take many times their size."""


class CollectingReader(StreamReader):
    """A StreamReader, except that what a large `read_exact` waits for never goes through its buffer."""

    def __init__(self) -> None:
        super().__init__()
        self._chunks: list[bytes | bytearray] = []
        self._missing = 0

    def read_exact(self, n: int) -> Generator[None, None, bytearray]:
        if n < COLLECTED_FROM_BYTES:
            return (yield from super().read_exact(n))
        self._chunks = [self.buffer[:n]]
        del self.buffer[:n]
        self._missing = n - len(self._chunks[0])
        while self._missing:
            if self.eof:
                raise EOFError(f"stream ends after {n - self._missing} bytes, expected {n} bytes")
            yield
        whole = bytearray().join(self._chunks)
        self._chunks = []
        return whole

    def feed_data(self, data: bytes | bytearray) -> None:
        if not self._missing or self.eof:
            super().feed_data(data)
            return
        wanted = data if len(data) <= self._missing else data[: self._missing]
        self._collect(wanted)
        self._missing -= len(wanted)
        if len(wanted) < len(data):
            super().feed_data(data[len(wanted) :])

    def _collect(self, data: bytes | bytearray) -> None:
        if len(data) >= SMALL_BYTES:
            # Not copied: uvloop makes new bytes for every read.
            self._chunks.append(data)
            return
        last = self._chunks[-1]
        if isinstance(last, bytearray):
            last += data
        else:
            self._chunks.append(bytearray(data))

    def at_eof(self) -> Generator[None, None, bool]:
        # Asked between two frames only, or when nobody wants the rest of one any more.
        self._drop_collected()
        return (yield from super().at_eof())

    def discard(self) -> None:
        self._drop_collected()
        super().discard()

    def _drop_collected(self) -> None:
        self._chunks, self._missing = [], 0
