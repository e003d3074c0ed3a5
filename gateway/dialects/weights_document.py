"""The document inside encoded weights ↔ canonical weights (protocol section 2.5).

A msgpack array with one map {shape, data} per tensor. `data` is an array of
numbers, of any spelling msgpack has for them, or extension 0x17: little-endian
float32. Knows no message and no model: whether the shapes are those of the
task is decided elsewhere.

Numbers come in long runs of one spelling: float64 from JavaScript, or one-byte
integers where tensors are zero. Runs are read by stride; where they are short,
msgspec reads the tensor one number at a time.
"""

from __future__ import annotations

import math
import struct
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.dialects.byte_array import Bytes, array_header
from gateway.dialects.messages import Shapes
from learning.refusals import InvalidWeights, TooLarge, WeightsNotFinite

MAX_TENSORS: Final = 4096
MAX_DIMENSIONS: Final = 8
FLOAT32_ARRAY: Final = 0x17
"""Extension under which typed arrays of float32 travel."""

_MAX_SHAPE_BYTES: Final = 128
_FLOAT64: Final = np.dtype([("tag", "u1"), ("value", ">f8")])
_FLOAT32: Final = np.dtype([("tag", "u1"), ("value", ">f4")])
_FLOAT64_TAG: Final = 0xCB
_FLOAT32_TAG: Final = 0xCA
_OTHER_NUMBERS: Final = {
    0xCA: ">f",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
_FIXED_ARRAY: Final = range(0x90, 0xA0)
# A run costs as much to find as some 200 numbers cost to read one at a time.
_NUMBERS_PER_RUN: Final = 200
_FEWEST_RUNS: Final = 48

Weights = npt.NDArray[np.float32]


class _Tensor(msgspec.Struct, forbid_unknown_fields=True):
    shape: msgspec.Raw
    data: msgspec.Raw


_SKELETON: Final = msgspec.msgpack.Decoder(list[_Tensor])
_SHAPE: Final = msgspec.msgpack.Decoder(list[int])
_NUMBERS: Final = msgspec.msgpack.Decoder(list[float])
# RecursionError: how msgspec says that something is nested too deep.
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode(document: bytes | memoryview, limit: int) -> tuple[memoryview, Shapes]:
    """Canonical weights and shapes. A float64 between two float32 becomes the nearest.

    Raises InvalidWeights, WeightsNotFinite (also for what overflows float32), and TooLarge where the canonical
    weights exceed `limit` bytes.
    """
    _check_tensor_count(bytes(memoryview(document)[:5]))
    try:
        tensors = _SKELETON.decode(document)
    except _UNREADABLE as error:
        raise InvalidWeights(problem=f"they are not a list of {{shape, data}}: {str(error)[:200]}") from None
    shapes = tuple(_shape(tensor.shape, index) for index, tensor in enumerate(tensors))
    sizes = [math.prod(shape) for shape in shapes]
    if 4 * sum(sizes) > limit:
        raise TooLarge(limit_bytes=limit)
    # Before anything is allocated: every number takes a byte at least.
    for index, (tensor, size) in enumerate(zip(tensors, sizes, strict=True)):
        if size > memoryview(tensor.data).nbytes:
            raise InvalidWeights(problem=f"tensor {index} has fewer values than its shape {list(shapes[index])} holds")
    weights = np.empty(sum(sizes), "<f4")
    at = 0
    for index, (tensor, size) in enumerate(zip(tensors, sizes, strict=True)):
        _read_values(memoryview(tensor.data), weights[at : at + size], index)
        at += size
    return weights.data.cast("B"), shapes


def encode_numbers(weights: bytes | memoryview, shapes: Shapes) -> bytes:
    """The compact document for msgpack-lite clients: five bytes a number, float32 where they would write float64."""
    tensors = []
    for shape, values in _split(weights, shapes):
        items = np.empty(values.size, _FLOAT32)
        items["tag"] = _FLOAT32_TAG
        items["value"] = values
        tensors.append({"shape": shape, "data": msgspec.Raw(array_header(values.size) + items.tobytes())})
    return msgspec.msgpack.encode(tensors)


def encode_float32_arrays(weights: bytes | memoryview, shapes: Shapes) -> bytes:
    """The document for GDV clients: four bytes a number."""
    return msgspec.msgpack.encode(
        [
            {"shape": shape, "data": msgspec.msgpack.Ext(FLOAT32_ARRAY, values.tobytes())}
            for shape, values in _split(weights, shapes)
        ]
    )


def _split(weights: bytes | memoryview, shapes: Shapes) -> list[tuple[tuple[int, ...], Weights]]:
    """Each shape with its values."""
    values = np.frombuffer(weights, "<f4")
    ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()
    assert values.size == (ends[-1] if ends else 0), "the weights do not have the shapes"
    return list(zip(shapes, np.split(values, ends[:-1]) if ends else [], strict=True))


def _check_tensor_count(head: bytes) -> None:
    if head[:1] and head[0] in _FIXED_ARRAY:
        return
    size = {0xDC: 2, 0xDD: 4}.get(head[0] if head else 0)
    if size is None:
        raise InvalidWeights(problem="they are not a list of tensors")
    if int.from_bytes(head[1 : 1 + size], "big") > MAX_TENSORS:
        raise InvalidWeights(problem=f"they have more than {MAX_TENSORS} tensors")


def _shape(raw: msgspec.Raw, index: int) -> tuple[int, ...]:
    problem = f"the shape of tensor {index} is not a list of at most {MAX_DIMENSIONS} sizes"
    if memoryview(raw).nbytes > _MAX_SHAPE_BYTES:
        raise InvalidWeights(problem=problem)
    try:
        shape = tuple(_SHAPE.decode(raw))
    except _UNREADABLE:
        raise InvalidWeights(problem=problem) from None
    if len(shape) > MAX_DIMENSIONS or not all(0 <= size < 2**32 for size in shape):
        raise InvalidWeights(problem=problem)
    return shape


def _read_values(data: memoryview, out: Weights, index: int) -> None:
    """Fills `out` with the values of one tensor."""
    tag = data[0]
    # Overflow becomes infinity, which is refused below by name.
    with np.errstate(over="ignore", invalid="ignore"):
        if tag in _FIXED_ARRAY or tag in (0xDC, 0xDD):
            _read_array(data, out, index)
        else:
            _read_extension(data, out, index)
    if not np.isfinite(out).all():
        raise WeightsNotFinite(tensor=index)


def _read_extension(data: memoryview, out: Weights, index: int) -> None:
    head = {0xD6: 1, 0xD7: 1, 0xD8: 1, 0xC7: 2, 0xC8: 3, 0xC9: 5}.get(data[0])
    if head is None or data[head] != FLOAT32_ARRAY:
        raise InvalidWeights(problem=f"the data of tensor {index} are neither numbers nor a Float32Array")
    values = data[head + 1 :]
    if values.nbytes != out.nbytes:
        raise InvalidWeights(problem=f"tensor {index} has {values.nbytes} bytes, its shape holds {out.nbytes}")
    out[:] = np.frombuffer(values, "<f4")


def _read_array(data: memoryview, out: Weights, index: int) -> None:
    head = {0xDC: 3, 0xDD: 5}.get(data[0], 1)
    count = data[0] & 0x0F if head == 1 else int.from_bytes(data[1:head], "big")
    if count != out.size:
        raise InvalidWeights(problem=f"tensor {index} has {count} values, its shape holds {out.size}")
    if not _read_runs(np.frombuffer(data[head:], np.uint8), out):
        try:
            out[:] = _NUMBERS.decode(data)
        except _UNREADABLE as error:
            raise InvalidWeights(problem=f"the data of tensor {index} are not numbers: {str(error)[:200]}") from None


def _read_runs(items: Bytes, out: Weights) -> bool:
    """Reads numbers run by run; False where the runs are too short for this to pay, or something is no number."""
    at = done = runs = 0
    while done < out.size:
        if runs >= _FEWEST_RUNS and done < runs * _NUMBERS_PER_RUN:
            return False
        runs += 1
        left, tag = out.size - done, int(items[at])
        if tag in (_FLOAT64_TAG, _FLOAT32_TAG):
            layout = _FLOAT64 if tag == _FLOAT64_TAG else _FLOAT32
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
        elif form := _OTHER_NUMBERS.get(tag):
            out[done] = struct.unpack_from(form, items.data, at + 1)[0]
            length, at = 1, at + 1 + struct.calcsize(form)
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
