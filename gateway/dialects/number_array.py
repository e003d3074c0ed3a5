"""Reads the items of a msgpack array of numbers into float32, whatever their spelling.

Knows msgpack's numbers and nothing of tensors. Three ways, for three kinds of array:

    runs       JavaScript writes float64, or one-byte integers where weights are zero: long runs, read by stride
    msgspec    where runs are short: one number at a time, 32 bytes of memory for each meanwhile
    windows    where there are too many numbers for that: item after item is found by doubling, 32 KiB at a time
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.dialects.byte_array import Bytes

Weights = npt.NDArray[np.float32]

MAX_NUMBERS_AT_ONCE: Final = 1_000_000
"""Beyond it, numbers never become Python objects."""

_FORMS: Final[dict[int, np.dtype[Any]]] = {
    0xCA: np.dtype(">f4"),
    0xCB: np.dtype(">f8"),
    0xCC: np.dtype(">u1"),
    0xCD: np.dtype(">u2"),
    0xCE: np.dtype(">u4"),
    0xCF: np.dtype(">u8"),
    0xD0: np.dtype(">i1"),
    0xD1: np.dtype(">i2"),
    0xD2: np.dtype(">i4"),
    0xD3: np.dtype(">i8"),
}
_NO_NUMBER: Final = 1 << 20
_LENGTHS: Final = np.full(256, _NO_NUMBER, np.intp)
_LENGTHS[:0x80] = _LENGTHS[0xE0:] = 1
for _tag, _form in _FORMS.items():
    _LENGTHS[_tag] = 1 + _form.itemsize

# Finding a run costs as much as reading some 200 numbers one at a time.
_NUMBERS_PER_RUN: Final = 200
_FEWEST_RUNS: Final = 48
_WINDOW_BYTES: Final = 32 * 1024
_DECODER: Final = msgspec.msgpack.Decoder(list[float])


def read(array: memoryview, out: Weights) -> None:
    """Fills `out` from a whole, well-formed array of as many items. Raises ValueError where an item is no number."""
    head = {0xDC: 3, 0xDD: 5}.get(array[0], 1)
    items = np.frombuffer(array[head:], np.uint8)
    if _read_runs(items, out):
        return
    if out.size > MAX_NUMBERS_AT_ONCE:
        _read_windows(items, out)
        return
    try:
        out[:] = _DECODER.decode(array)
    # RecursionError: how msgspec says that something is nested too deep.
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _read_runs(items: Bytes, out: Weights) -> bool:
    """False where the runs are too short for this to pay, or something is no number."""
    at = done = runs = 0
    while done < out.size:
        if runs >= _FEWEST_RUNS and done < runs * _NUMBERS_PER_RUN:
            return False
        runs += 1
        left, tag = out.size - done, int(items[at])
        form = _FORMS.get(tag)
        if form is not None:
            layout = np.dtype([("tag", "u1"), ("value", form)])
            count = min(left, (items.size - at) // layout.itemsize)
            run = items[at : at + count * layout.itemsize]
            length = _run_length(run[:: layout.itemsize], tag, tag)
            out[done : done + length] = run.view(layout)["value"][:length]
            at += length * layout.itemsize
        elif tag < 0x80 or tag >= 0xE0:
            # The one-byte integers -32 to 127 are exactly the signed bytes of the same bits.
            small = items[at : at + left].view(np.int8)
            length = _run_length(small, -32, 127)
            out[done : done + length] = small[:length]
            at += length
        else:
            return False
        done += length
    return True


def _run_length(values: npt.NDArray[np.uint8 | np.int8], low: int, high: int) -> int:
    """How many values lie from `low` to `high` before the first that does not.

    Looks at ever larger blocks, so that a short run costs no look at all that follows.
    """
    at, block = 0, 64
    while at < values.size:
        part = values[at : at + block]
        outside = (part < low) | (part > high)
        if outside.any():
            return at + int(outside.argmax())
        at, block = at + block, block * 4
    return int(values.size)


def _read_windows(items: Bytes, out: Weights) -> None:
    at = done = 0
    while done < out.size:
        window = items[at : at + _WINDOW_BYTES]
        starts = _starts(window)[: out.size - done]
        lengths = _LENGTHS.take(window.take(starts))
        if lengths.max() == _NO_NUMBER:
            raise ValueError("one of the items is no number")
        # The last one may reach beyond the window; it is the first of the next.
        whole = int(np.searchsorted(starts + lengths, window.size, side="right"))
        starts = starts[:whole]
        _read_at(window, starts, out[done : done + whole])
        done += whole
        at += int(starts[-1] + lengths[whole - 1])


def _starts(window: Bytes) -> npt.NDArray[np.intp]:
    """Where the items of a window begin that begins with one.

    `leap` leads from an item to the one 2^k further; with it the first 2^k starts give the next 2^k.
    """
    end = window.size
    leap = np.append(np.minimum(np.arange(end) + _LENGTHS.take(window), end), end)
    starts = np.zeros(1, np.intp)
    while starts[-1] < end:
        starts = np.concatenate((starts, leap.take(starts)))
        leap = leap.take(leap)
    return starts[: int(np.searchsorted(starts, end))]


def _read_at(window: Bytes, starts: npt.NDArray[np.intp], out: Weights) -> None:
    tags = window.take(starts)
    out[:] = tags.view(np.int8)
    for tag, form in _FORMS.items():
        which = np.flatnonzero(tags == tag)
        if which.size:
            payloads = np.lib.stride_tricks.sliding_window_view(window, form.itemsize)
            out[which] = payloads.take(starts[which] + 1, axis=0).view(form)[:, 0]
