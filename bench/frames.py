"""WebSocket frames that a client would have to make anew for every contribution, made once.

A contribution is the same in every round and for every client, except for what stands
in its first bytes: the round, and one weight, by which contributions differ. Only
these are packed and masked when it is sent; the rest is masked here, once. A frame's mask
is chosen by its sender, so all frames may have the same one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import msgspec
import numpy as np

from gateway.dialects import byte_array, weights_document

MASK = bytes.fromhex("5a17c3e9")
VARIANTS = 1 << 14
"""How many different contributions a prepared frame makes."""

_BINARY, _FINAL, _MASKED = 0x02, 0x80, 0x80
_FLOAT64_TAG = 0xCB
_ANY = 128


@dataclass(frozen=True, slots=True)
class Prepared:
    """A contribution's frame. `head_size` bytes are made for every sending, the rest is there."""

    head_size: int
    head: bytes
    """Unmasked, of the round 0 and the first variant."""
    rest: bytes
    """Masked."""
    round_at: int
    varied_at: tuple[int, int]
    """Two bytes whose lower seven bits are free."""

    @property
    def size(self) -> int:
        return len(_header(self.head_size + len(self.rest))) + self.head_size + len(self.rest)

    def parts(self, round: int, variant: int) -> tuple[bytes, bytes]:
        """The frame, in two pieces."""
        head = bytearray(self.head)
        struct.pack_into("!I", head, self.round_at, round)
        high, low = self.varied_at
        head[high] |= variant >> 7 & 0x7F
        head[low] |= variant & 0x7F
        return _header(len(head) + len(self.rest)) + masked(bytes(head), at=0), self.rest


def small_frame(**fields: object) -> bytes:
    """The whole frame of a message without weights."""
    payload = msgspec.msgpack.encode(fields)
    return _header(len(payload)) + masked(payload, at=0)


def float32_contribution(weights: np.ndarray, shapes: tuple[tuple[int, ...], ...]) -> Prepared:
    """As clients of the dialect GDV send it: typed arrays, carried as bin."""
    weights = weights.copy()
    weights[0] = 1.0  # 00 00 80 3f: the first two bytes are free
    document = weights_document.encode_float32_arrays(weights.tobytes(), shapes)
    at = document.index(struct.pack("<f", 1.0))
    start = _before_weights(10, "payload")
    header = b"\xc6" + len(document).to_bytes(4, "big")
    first = len(start) + len(header) + at
    return _prepared(start + header + document, round_at=_round_at(start), varied_at=(first, first + 1))


def byte_array_contribution(weights: np.ndarray, shapes: tuple[tuple[int, ...], ...]) -> Prepared:
    """As clients of the dialect G21 send it: float64 numbers, and every byte of that an item of an array.

    The first weight's free bits lie below 0x80 in bytes that are always one item long.
    """
    document = bytearray(b"\x90" if not shapes else bytes([0x90 | len(shapes)]))
    values = weights.astype("<f4").astype(">f8")
    values[0] = 1.0  # 3f f0 00 00 …: the third and fourth bytes are free, and count in float32 as well
    at = 0
    for shape in shapes:
        count = int(np.prod(shape))
        items = np.empty(count, np.dtype([("tag", "u1"), ("value", ">f8")]))
        items["tag"], items["value"] = _FLOAT64_TAG, values[at : at + count]
        document += b"\x82\xa5shape" + msgspec.msgpack.encode(shape) + b"\xa4data"
        document += byte_array.array_header(count) + items.tobytes()
        at += count
    start = _before_weights(8, "weights")
    number = document.index(bytes([_FLOAT64_TAG, 0x3F, 0xF0, 0, 0]))
    payload = start + byte_array.encode(bytes(document))
    first = payload.index(b"\xcc\xcb\x3f\xcc\xf0\x00\x00", len(start)) + 5
    assert number < _ANY, "the first number stands at the start of the document"
    return _prepared(payload, round_at=_round_at(start), varied_at=(first, first + 1))


def masked(payload: bytes, *, at: int) -> bytes:
    """A part of a payload, `at` bytes from its start, as it travels (RFC 6455, section 5.3)."""
    mask = np.resize(np.frombuffer(MASK[at % 4 :] + MASK[: at % 4], np.uint8), len(payload))
    return np.bitwise_xor(np.frombuffer(payload, np.uint8), mask).tobytes()


def _before_weights(kind: int, name: str) -> bytes:
    """The start of the message; the order of a map's keys is free."""
    fields = b"\xa4type" + bytes([kind]) + b"\xa5round\xce\0\0\0\0"
    return b"\x83" + fields + bytes([0xA0 | len(name)]) + name.encode()


def _round_at(start: bytes) -> int:
    return start.index(b"\xa5round\xce") + 7


def _prepared(payload: bytes, *, round_at: int, varied_at: tuple[int, int]) -> Prepared:
    head_size = _ANY if len(payload) > _ANY else len(payload)
    assert varied_at[1] < head_size, "what varies stands in the head"
    return Prepared(
        head_size=head_size,
        head=payload[:head_size],
        rest=masked(payload[head_size:], at=head_size),
        round_at=round_at,
        varied_at=varied_at,
    )


def _header(size: int) -> bytes:
    first = bytes([_FINAL | _BINARY])
    if size < 126:
        return first + bytes([_MASKED | size]) + MASK
    if size < 1 << 16:
        return first + bytes([_MASKED | 126]) + size.to_bytes(2, "big") + MASK
    return first + bytes([_MASKED | 127]) + size.to_bytes(8, "big") + MASK
