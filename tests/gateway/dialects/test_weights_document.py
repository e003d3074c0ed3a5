import math
import tracemalloc
from collections.abc import Callable
from unittest import mock

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import weights_document
from learning.refusals import InvalidWeights, TooLarge, WeightsNotFinite

LIMIT = 1 << 30
# [[1.5, 0], [2]] as each generation writes it (protocol section 2.6).
NUMBERS = bytes.fromhex(
    "92 82a5736861706591 02 a464617461 92 cb3ff8000000000000 00 82a5736861706591 01 a464617461 91 02"
)
COMPACT = bytes.fromhex(
    "92 82a5736861706591 02 a464617461 92 ca3fc00000 ca00000000 82a5736861706591 01 a464617461 91 ca40000000"
)
FLOAT32_ARRAYS = bytes.fromhex(
    "92 82a5736861706591 02 a464617461 d7170000c03f00000000 82a5736861706591 01 a464617461 d61700000040"
)
WEIGHTS = np.array([1.5, 0, 2], "<f4").tobytes()
SHAPES = ((2,), (1,))

float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def document(*tensors: tuple[list[int], object]) -> bytes:
    return msgspec.msgpack.encode([{"shape": shape, "data": data} for shape, data in tensors])


def read(data: bytes) -> list[float]:
    """The values of a document with one tensor."""
    weights, _ = weights_document.decode(data, LIMIT)
    return np.frombuffer(weights, "<f4").tolist()


@pytest.mark.parametrize(
    ("written", "size"), [(NUMBERS, 42), (COMPACT, 46), (FLOAT32_ARRAYS, 45)], ids=["numbers", "compact", "arrays"]
)
def test_the_worked_example_of_every_spelling_is_read(written: bytes, size: int) -> None:
    assert len(written) == size
    weights, shapes = weights_document.decode(written, LIMIT)
    assert (bytes(weights), shapes) == (WEIGHTS, SHAPES)


@pytest.mark.parametrize("written", [NUMBERS, COMPACT, FLOAT32_ARRAYS])
def test_weights_are_put_into_the_room_that_is_given(written: bytes) -> None:
    rooms: list[memoryview] = []

    def room(size: int) -> memoryview:
        rooms.append(memoryview(bytearray(b"x" * size)))
        return rooms[-1]

    weights, _ = weights_document.decode(written, LIMIT, room)
    assert weights is rooms[0]
    assert rooms == [WEIGHTS]


def test_the_worked_examples_are_written_byte_for_byte() -> None:
    assert weights_document.encode_numbers(WEIGHTS, SHAPES) == COMPACT
    assert weights_document.encode_float32_arrays(WEIGHTS, SHAPES) == FLOAT32_ARRAYS


@pytest.mark.parametrize("encode", [weights_document.encode_numbers, weights_document.encode_float32_arrays])
@given(st.lists(st.lists(float32, max_size=40), max_size=6))
def test_weights_survive_the_way_there_and_back(
    encode: Callable[[bytes, tuple[tuple[int, ...], ...]], bytes], tensors: list[list[float]]
) -> None:
    weights = np.array([value for tensor in tensors for value in tensor], "<f4").tobytes()
    shapes = tuple((len(tensor), 1) for tensor in tensors)
    restored, restored_shapes = weights_document.decode(encode(weights, shapes), LIMIT)
    assert (bytes(restored), restored_shapes) == (weights, shapes)


@given(st.lists(float32 | st.integers(-(2**63), 2**64 - 1) | st.sampled_from([0, 1, -32, 127]), max_size=400))
def test_any_mixture_of_numbers_is_read_as_the_nearest_float32(values: list[float]) -> None:
    assert read(document(([len(values)], values))) == np.array(values, np.float64).astype("<f4").tolist()


def outcome(data: bytes) -> object:
    try:
        weights, shapes = weights_document.decode(data, LIMIT)
    except (InvalidWeights, WeightsNotFinite, TooLarge) as refusal:
        return type(refusal)
    return bytes(weights), shapes


@given(
    st.lists(st.tuples(st.sampled_from([[], [2], [1, 2], [200, 70_000]]), st.lists(float32, max_size=20)), max_size=4),
    st.data(),
)
def test_documents_of_float64_are_read_as_all_others_whatever_happened_to_them(
    tensors: list[tuple[list[int], list[float]]], data: st.DataObject
) -> None:
    written = bytearray(document(*tensors))
    if data.draw(st.booleans(), "damaged"):
        written[data.draw(st.integers(0, len(written) - 1), "at")] = data.draw(st.integers(0, 255), "byte")
    damaged = bytes(written[: data.draw(st.none() | st.integers(0, len(written)), "end")]) + data.draw(st.binary())
    with mock.patch.object(weights_document, "_tensors_of_float64", return_value=None):
        expected = outcome(damaged)
    assert outcome(damaged) == expected


def test_numbers_of_javascript_are_not_stepped_over_one_by_one() -> None:
    written = document(([2, 2], [0.1, 0.2, 0.3, 0.4]), ([], [0.5]), ([0], []), ([300], [0.25] * 300))
    with mock.patch.object(weights_document, "_tensors", side_effect=AssertionError("stepped over")):
        _, shapes = weights_document.decode(written, LIMIT)
    assert shapes == ((2, 2), (), (0,), (300,))


def test_runs_too_short_to_pay_are_read_one_number_at_a_time() -> None:
    values: list[float] = [0.5, 0, 1.25, 300, -7] * 2000
    assert read(document(([len(values)], values))) == values


def test_long_runs_between_zeros_are_read_by_stride() -> None:
    values: list[float] = ([0.5] * 300 + [0] * 300 + [70_000, -0.25]) * 60
    assert read(document(([len(values)], values))) == values


def test_scalars_and_empty_tensors_have_a_place() -> None:
    weights, shapes = weights_document.decode(document(([], [0.5]), ([0], []), ([2, 1], [1, 2])), LIMIT)
    assert (bytes(weights), shapes) == (np.array([0.5, 1, 2], "<f4").tobytes(), ((), (0,), (2, 1)))


def test_a_float64_between_two_float32_becomes_the_nearest() -> None:
    assert read(document(([2], [0.1, 1 + 2**-24 + 2**-40]))) == [float(np.float32(0.1)), 1 + 2**-23]


@pytest.mark.parametrize("value", [1e39, -1e300, math.inf, math.nan])
@pytest.mark.parametrize("others", [[0.5], [0.5, 0] * 2000])
def test_what_float32_cannot_hold_is_refused_by_the_number_of_its_tensor(value: float, others: list[float]) -> None:
    with pytest.raises(WeightsNotFinite) as refusal:
        weights_document.decode(document(([1], [1]), ([len(others) + 1], [*others, value])), LIMIT)
    assert refusal.value.variables == {"tensor": "1"}


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (b"", "not a list of tensors"),
        (b"\x80", "not a list of tensors"),
        (b"\x91\x01", "not a list of {shape, data}"),
        (msgspec.msgpack.encode([{"shape": [1]}]), "not a list of {shape, data}"),
        (msgspec.msgpack.encode([{"shape": [1], "data": [1], "more": 1}]), "not a list of {shape, data}"),
        (COMPACT + b"\x00", "not a list of {shape, data}"),
        (COMPACT[:-1], "not a list of {shape, data}"),
        (b"\xdd\xff\xff\xff\xff", "more than 4096 tensors"),
        (b"\xdc\x10\x01" + b"\x80" * 4097, "more than 4096 tensors"),
        (document(([3], [1, 2])), "tensor 0 has 2 values, its shape holds 3"),
        (document(([2], [1, 2, 3])), "tensor 0 has 3 values, its shape holds 2"),
        (document(([9], [1])), "fewer values than its shape [9] holds"),
        (document(([-1], [1])), "the shape of tensor 0"),
        (document(([1] * 9, [1])), "the shape of tensor 0"),
        (document(([1] * 200, [1])), "the shape of tensor 0"),
        (msgspec.msgpack.encode([{"shape": "1", "data": [1]}]), "the shape of tensor 0"),
        (document(([1], ["1"])), "the data of tensor 0 are not numbers"),
        (document(([1], [None])), "the data of tensor 0 are not numbers"),
        (document(([1], [True])), "the data of tensor 0 are not numbers"),
        (document(([2], [0.5, [1]])), "the data of tensor 0 are not numbers"),
        (document(([1], b"\x00\x00\x80\x3f")), "neither numbers nor a Float32Array"),
        (document(([1], msgspec.msgpack.Ext(0x18, bytes(8)))), "neither numbers nor a Float32Array"),
        (document(([1], msgspec.msgpack.Ext(0x17, bytes(8)))), "tensor 0 has 8 bytes, its shape holds 4"),
        (document(([1], {"0": 1})), "neither numbers nor a Float32Array"),
        (b"\x91\x82\xa5shape\x90\xa4data" + b"\x91" * 100_000, "not a list of {shape, data}"),
    ],
)
def test_a_document_that_is_not_weights_is_refused_with_what_is_wrong(written: bytes, problem: str) -> None:
    with pytest.raises(InvalidWeights) as refusal:
        weights_document.decode(written, LIMIT)
    assert problem in refusal.value.variables["problem"]


def test_weights_beyond_the_limit_are_refused_by_what_they_would_hold() -> None:
    assert weights_document.decode(document(([4], [1, 2, 3, 4])), 16)[1] == ((4,),)
    with pytest.raises(TooLarge):
        weights_document.decode(document(([5], [1, 2, 3, 4, 5])), 16)


def test_a_hostile_document_takes_little_more_memory_than_its_weights() -> None:
    """Numbers of alternating spelling, none of which becomes an object of its own."""
    count = 2_000_000
    written = document(([count], msgspec.Raw(b"\xdd" + count.to_bytes(4, "big") + b"\x01\xcc\x81" * (count // 2))))
    tracemalloc.start()
    try:
        weights, _ = weights_document.decode(written, LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bytes(weights[:8]) == np.array([1, 129], "<f4").tobytes()
    assert peak < 4 * count + 4_000_000
