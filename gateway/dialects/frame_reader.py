"""Reads one msgpack map without trusting it: a cursor over the bytes of a frame.

Knows msgpack, not what the keys mean. Nothing is built for what a header merely
announces; values that nobody asked for are stepped over, not decoded; depth and
number of items are bounded, so a frame costs at most a few milliseconds beside
its weights.
"""

from __future__ import annotations

import struct
from typing import Final

from gateway.dialects import byte_array
from learning.refusals import MalformedMessage, TooLarge

MAX_DEPTH: Final = 64
MAX_ITEMS: Final = 16_384
MAX_TEXT_BYTES: Final = 65_536
MAX_NUMBER: Final = 2**53
"""Above it, JavaScript cannot count."""

_SCALARS: Final = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
_LENGTHS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
_EXTENSIONS: Final = {*range(0xC7, 0xCA), *range(0xD4, 0xD9)}


class FrameReader:
    """A cursor. Every method raises MalformedMessage where the bytes are not what is asked for."""

    def __init__(self, frame: bytes) -> None:
        self._frame = frame
        self._items_left = MAX_ITEMS
        self.at = 0

    def map_size(self) -> int:
        """Steps into a map and returns how many pairs it announces."""
        tag = self._byte()
        if 0x80 <= tag <= 0x8F:
            return tag & 0x0F
        if tag not in (0xDE, 0xDF):
            raise MalformedMessage(problem="a map was expected")
        return self._length(tag)

    def is_map(self) -> bool:
        """Whether a map comes next."""
        return self.at < len(self._frame) and (0x80 <= (tag := self._frame[self.at]) <= 0x8F or tag in (0xDE, 0xDF))

    def text(self) -> str:
        tag = self._byte()
        if 0xA0 <= tag <= 0xBF:
            size = tag & 0x1F
        elif tag in (0xD9, 0xDA, 0xDB):
            size = self._length(tag)
        else:
            raise MalformedMessage(problem="a text was expected")
        if size > MAX_TEXT_BYTES:
            raise TooLarge(limit_bytes=MAX_TEXT_BYTES)
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            raise MalformedMessage(problem="a text is not UTF-8") from None

    def count(self) -> int:
        """An integral number from 0 to 2^53, however JavaScript spelled it."""
        value = self._number()
        if not 0 <= value <= MAX_NUMBER or value != int(value):
            raise MalformedMessage(problem="a whole number from 0 to 2^53 was expected")
        return int(value)

    def byte_array(self) -> memoryview:
        """Bytes that travel as an array of numbers, or as bin."""
        tag = self._byte()
        if 0x90 <= tag <= 0x9F:
            size = tag & 0x0F
        elif tag in (0xDC, 0xDD):
            size = self._length(tag)
        elif tag in (0xC4, 0xC5, 0xC6):
            return self._view(self._length(tag))
        else:
            raise MalformedMessage(problem="an array of bytes was expected")
        document, taken = byte_array.decode_items(memoryview(self._frame)[self.at :], size)
        self.at += taken
        return document

    def skip(self, *, extensions: bool = True) -> None:
        """Steps over one item of any kind; without `extensions`, one that holds such is malformed."""
        open_containers = [1]
        while open_containers:
            if open_containers[-1] == 0:
                open_containers.pop()
                continue
            open_containers[-1] -= 1
            inside = self._skip_head(extensions)
            if inside:
                if len(open_containers) > MAX_DEPTH:
                    raise MalformedMessage(problem=f"it is nested deeper than {MAX_DEPTH} levels")
                open_containers.append(inside)

    def end(self) -> None:
        """Refuses bytes behind the message."""
        if self.at != len(self._frame):
            raise MalformedMessage(problem="bytes follow the message")

    def _skip_head(self, extensions: bool) -> int:
        """Steps over a scalar, or the head of a container, and returns how many items are inside."""
        self._items_left -= 1
        if self._items_left < 0:
            raise MalformedMessage(problem=f"it holds more than {MAX_ITEMS} items beside weights")
        tag = self._byte()
        if tag < 0x80 or tag >= 0xE0 or tag in (0xC0, 0xC2, 0xC3):
            return 0
        if tag < 0xA0:
            return (tag & 0x0F) * (2 if tag < 0x90 else 1)
        if tag < 0xC0:
            self._step_over(tag & 0x1F)
        elif tag in _SCALARS:
            self._step_over(struct.calcsize(_SCALARS[tag]))
        elif tag in _EXTENSIONS and extensions:
            self._skip_extension(tag)
        elif tag not in _LENGTHS:
            raise MalformedMessage(problem=f"it holds the byte {tag:#04x} where an item should begin")
        elif tag >= 0xDC:
            return self._length(tag) * (2 if tag >= 0xDE else 1)
        else:
            self._step_over(self._length(tag))
        return 0

    def _skip_extension(self, tag: int) -> None:
        size = 1 << (tag - 0xD4) if tag >= 0xD4 else int.from_bytes(self._take(1 << (tag - 0xC7)), "big")
        self._step_over(1 + size)

    def _number(self) -> float:
        tag = self._byte()
        if tag < 0x80 or tag >= 0xE0:
            return tag if tag < 0x80 else tag - 0x100
        if tag not in _SCALARS:
            raise MalformedMessage(problem="a number was expected")
        form = _SCALARS[tag]
        value: float = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def _length(self, tag: int) -> int:
        return int.from_bytes(self._take(_LENGTHS[tag]), "big")

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, size: int) -> bytes:
        start = self._step_over(size)
        return self._frame[start : self.at]

    def _view(self, size: int) -> memoryview:
        """What `_take` gives, not copied: it may be most of the frame."""
        start = self._step_over(size)
        return memoryview(self._frame)[start : self.at]

    def _step_over(self, size: int) -> int:
        """Returns where it stood before."""
        start, end = self.at, self.at + size
        if end > len(self._frame):
            raise MalformedMessage(problem="it ends too early")
        self.at = end
        return start
