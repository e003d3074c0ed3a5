"""Bytes as msgpack-lite clients send them: an array of the integers 0 to 255.

A byte below 0x80 is itself, any other is 0xcc and the byte. Knows nothing of
what the bytes say. Both directions work on whole chunks with NumPy; the rules
behind them are those of the protocol's appendix.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from learning.refusals import MalformedMessage

Bytes = npt.NDArray[np.uint8]

_PREFIX: Final = 0xCC
_HIGH: Final = 0x80
# Masks and indices of one chunk stay in the second-level cache (design section 8).
_CHUNK_BYTES: Final = 256 * 1024


def decode_items(region: memoryview, count: int) -> tuple[memoryview, int]:
    """The first `count` integers of `region` as bytes, and how long they were in it.

    Raises MalformedMessage where they are too few or something else than integers from 0 to 255.
    """
    if count > len(region):
        raise MalformedMessage(problem=f"it announces {count} bytes of weights and then ends")
    source = np.frombuffer(region, np.uint8)
    document = np.empty(count, np.uint8)
    at = done = 0
    while done < count:
        chunk = source[at : at + min(_CHUNK_BYTES, 2 * (count - done))]
        is_prefix = _prefixes(chunk)
        if chunk.size and is_prefix[-1]:
            # Its byte is in the next chunk.
            chunk, is_prefix = chunk[:-1], is_prefix[:-1]
        if not chunk.size:
            raise MalformedMessage(problem="the array of bytes ends too early")
        kept = np.flatnonzero(~is_prefix)[: count - done]
        end = int(kept[-1]) + 1
        _check_high_bytes(chunk[:end], is_prefix[:end])
        # `take` by index is three times as fast as indexing by the mask.
        document[done : done + kept.size] = chunk.take(kept)
        done += kept.size
        at += end
    return document.data, at


def encode(document: bytes | memoryview) -> bytes:
    """The whole item: header and integers."""
    source = np.frombuffer(document, np.uint8)
    parts = [array_header(source.size)]
    for start in range(0, source.size, _CHUNK_BYTES):
        chunk = source[start : start + _CHUNK_BYTES]
        high = chunk >= _HIGH
        # Where each byte goes: its own index and one more for every prefix up to it.
        place = np.arange(chunk.size) + np.cumsum(high)
        items = np.full(int(place[-1]) + 1, _PREFIX, np.uint8)
        items[place] = chunk
        parts.append(items.tobytes())
    return b"".join(parts)


def array_header(count: int) -> bytes:
    """How msgpack announces an array."""
    if count < 16:
        return bytes([0x90 | count])
    if count < 2**16:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def _prefixes(chunk: Bytes) -> npt.NDArray[np.bool_]:
    """Which bytes are prefixes, in a chunk that begins with an item.

    A run of 0xcc begins with a prefix, and prefixes and payloads alternate in it.
    """
    is_prefix: npt.NDArray[np.bool_] = chunk == _PREFIX
    pairs = np.flatnonzero(is_prefix[1:] & is_prefix[:-1])
    if pairs.size:
        order = np.arange(pairs.size)
        begins = np.ones(pairs.size, np.bool_)
        np.not_equal(pairs[1:], pairs[:-1] + 1, out=begins[1:])
        first = np.maximum.accumulate(np.where(begins, order, 0))
        is_prefix[pairs[(order - first) % 2 == 0] + 1] = False
    return is_prefix


def _check_high_bytes(chunk: Bytes, is_prefix: npt.NDArray[np.bool_]) -> None:
    """A byte of 0x80 and above that no prefix announces begins some other msgpack item."""
    payload_high = (chunk >= _HIGH) > is_prefix
    if payload_high[0] or np.any(payload_high[1:] > is_prefix[:-1]):
        raise MalformedMessage(problem="the array of bytes holds something else than integers from 0 to 255")
