"""The document inside encoded weights ↔ canonical weights (protocol section 2.5).

A msgpack array with one map {shape, data} per tensor. `data` is an array of
numbers, of any spelling msgpack has for them, or extension 0x17: little-endian
float32. Knows no message and no model: whether the shapes are those of the
task is decided elsewhere; how numbers are spelled is `number_array`'s.
"""

from __future__ import annotations

import math
import re
from typing import Final

import msgspec
import numpy as np

from gateway.dialects import number_array
from gateway.dialects.byte_array import array_header
from gateway.dialects.messages import Room, Shapes
from gateway.dialects.number_array import Weights
from learning.limits import MAX_TENSORS
from learning.refusals import InvalidWeights, TooLarge, WeightsNotFinite

MAX_DIMENSIONS: Final = 8
FLOAT32_ARRAY: Final = 0x17
"""Extension under which typed arrays of float32 travel."""

_MAX_SHAPE_BYTES: Final = 128
_FLOAT32: Final = np.dtype([("tag", "u1"), ("value", ">f4")])
_FLOAT32_TAG: Final = 0xCA
_FIXED_ARRAY: Final = range(0x90, 0xA0)


class _Tensor(msgspec.Struct, forbid_unknown_fields=True):
    shape: msgspec.Raw
    data: msgspec.Raw


_SKELETON: Final = msgspec.msgpack.Decoder(list[_Tensor])
_BEFORE_ARRAY: Final = re.compile(
    rb"\x82\xa5shape([\x90-\x98](?:[\x00-\x7f]|\xcc.|\xcd..|\xce....){0,8})"
    rb"\xa4data(?=[\x90-\x9f]|\xdc..|\xdd....)",
    re.DOTALL,
)
"""What stands before the numbers of a tensor that JavaScript wrote."""
_FLOAT64_TAG: Final = 0xCB
_FLOAT64_BYTES: Final = 9
_SHAPE: Final = msgspec.msgpack.Decoder(list[int])
# RecursionError: how msgspec says that something is nested too deep.
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def in_memory(size: int) -> memoryview:
    """Room for `size` bytes of canonical weights."""
    return np.empty(size, np.uint8).data


def decode(document: bytes | memoryview, limit: int, room: Room = in_memory) -> tuple[memoryview, Shapes]:
    """Canonical weights, in a room of their size, and shapes. A float64 between two float32 becomes the nearest.

    Raises InvalidWeights, WeightsNotFinite (also for what overflows float32), and TooLarge where the canonical
    weights exceed `limit` bytes.
    """
    _check_tensor_count(bytes(memoryview(document)[:5]))
    tensors = _tensors_of_float64(memoryview(document)) or _tensors(document)
    shapes = tuple(_shape(tensor.shape, index) for index, tensor in enumerate(tensors))
    sizes = [math.prod(shape) for shape in shapes]
    if 4 * sum(sizes) > limit:
        raise TooLarge(limit_bytes=limit)
    # Before anything is allocated: every number takes a byte at least.
    for index, (tensor, size) in enumerate(zip(tensors, sizes, strict=True)):
        if size > memoryview(tensor.data).nbytes:
            raise InvalidWeights(problem=f"tensor {index} has fewer values than its shape {list(shapes[index])} holds")
    octets, at = room(4 * sum(sizes)), 0
    weights = np.frombuffer(octets, "<f4")
    for index, (tensor, size) in enumerate(zip(tensors, sizes, strict=True)):
        _read_values(memoryview(tensor.data), weights[at : at + size], index)
        at += size
    return octets, shapes


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
            {"shape": shape, "data": msgspec.msgpack.Ext(FLOAT32_ARRAY, values.view(np.uint8).data)}
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


def _tensors(document: bytes | memoryview) -> list[_Tensor]:
    try:
        return _SKELETON.decode(document)
    except _UNREADABLE as error:
        raise InvalidWeights(problem=f"they are not a list of {{shape, data}}: {str(error)[:200]}") from None


def _tensors_of_float64(document: memoryview) -> list[_Tensor] | None:
    """What `_tensors` finds in a document whose numbers are all float64, as JavaScript writes what is not whole; None
    for any other. Where an array of them ends follows from its length, so that nothing steps over a million numbers."""
    octets = np.frombuffer(document, np.uint8)
    count, at = _array_head(document)
    tensors = []
    for _ in range(count):
        before = _BEFORE_ARRAY.match(document, at)
        if before is None:
            return None
        length, head = _array_head(document[before.end() :])
        first = before.end() + head
        at = first + _FLOAT64_BYTES * length
        if at > octets.size or (octets[first:at:_FLOAT64_BYTES] != _FLOAT64_TAG).any():
            return None
        tensors.append(_Tensor(shape=msgspec.Raw(before[1]), data=msgspec.Raw(document[before.end() : at])))
    return tensors if at == octets.size else None


def _array_head(array: memoryview) -> tuple[int, int]:
    """How many items an array has, and how many bytes stand before them."""
    size = {0xDC: 2, 0xDD: 4}.get(array[0], 0)
    return int.from_bytes(array[1 : 1 + size], "big") if size else array[0] & 0x0F, 1 + size


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
    count, _ = _array_head(data)
    if count != out.size:
        raise InvalidWeights(problem=f"tensor {index} has {count} values, its shape holds {out.size}")
    try:
        number_array.read(data, out)
    except ValueError as error:
        raise InvalidWeights(problem=f"the data of tensor {index} are not numbers: {str(error)[:200]}") from None
