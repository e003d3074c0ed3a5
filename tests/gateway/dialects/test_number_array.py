import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import number_array

numbers = (
    st.floats(width=32, allow_nan=False, allow_infinity=False)
    | st.integers(-(2**63), 2**64 - 1)
    | st.sampled_from([0, 1, -1, -32, -33, 127, 128, 255, 256, 65_535, 65_536])
)


def read(written: bytes, count: int) -> list[float]:
    out = np.empty(count, "<f4")
    number_array.read(memoryview(written), out)
    return out.tolist()


@pytest.fixture(params=["few", "many"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether numbers may be read one at a time, or are too many for that."""
    if request.param == "many":
        monkeypatch.setattr(number_array, "MAX_NUMBERS_AT_ONCE", 0)
    return str(request.param)


@given(values=st.lists(numbers, max_size=60))
def test_numbers_of_every_spelling_are_read_in_all_three_ways(values: list[float]) -> None:
    expected = np.array(values, np.float64).astype("<f4")
    written = msgspec.msgpack.encode(values)
    assert read(written, len(values)) == expected.tolist()
    items = np.frombuffer(written[1 if len(values) < 16 else 3 :], np.uint8)
    windowed, run = np.empty((2, len(values)), "<f4")
    number_array._read_windows(items, windowed)
    assert number_array._read_runs(items, run) or len(values) >= 48
    assert windowed.tolist() == expected.tolist()


@pytest.mark.usefixtures("size")
def test_short_runs_are_read_across_windows() -> None:
    values = [0.5, 0, 1.25, 300, -7, 2**40] * 9000
    assert read(msgspec.msgpack.encode(values), len(values)) == values


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("other", [None, True, "1", [1], b"\x01", {}, msgspec.msgpack.Ext(5, b"")])
@pytest.mark.parametrize("place", [0, 5, 4999])
def test_an_item_that_is_no_number_is_refused(other: object, place: int) -> None:
    values: list[object] = [0.5, 0] * 2500
    values[place] = other
    with pytest.raises(ValueError):
        read(msgspec.msgpack.encode(values), len(values))


def test_long_runs_are_read_without_a_look_at_each_number() -> None:
    values = ([0.5] * 300 + [0] * 300 + [70_000, 80_000, -0.25]) * 60
    out = np.empty(len(values), "<f4")
    assert number_array._read_runs(np.frombuffer(msgspec.msgpack.encode(values)[3:], np.uint8), out)
    assert out.tolist() == values
