import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.frame_reader import MAX_DEPTH, MAX_ITEMS, MAX_TEXT_BYTES, FrameReader
from learning.refusals import MalformedMessage, TooLarge

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=50)
    | st.binary(max_size=300)
    | st.builds(msgspec.msgpack.Ext, st.integers(0, 127), st.binary(max_size=20))
)
items = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=40), inner), max_leaves=30
)


@given(items)
def test_an_item_of_any_kind_is_stepped_over_exactly(item: object) -> None:
    written = msgspec.msgpack.encode(item)
    reader = FrameReader(written + b"\x01")
    reader.skip()
    assert reader.at == len(written)


@given(items)
def test_an_item_that_ends_too_early_is_malformed(item: object) -> None:
    written = msgspec.msgpack.encode(item)
    for size in range(len(written)):
        with pytest.raises(MalformedMessage):
            FrameReader(written[:size]).skip()


@pytest.mark.parametrize("written", [b"\x07", b"\xcc\x07", b"\xd3" + bytes(7) + b"\x07", b"\xcb\x40\x1c" + bytes(6)])
def test_a_whole_number_is_read_however_it_is_spelled(written: bytes) -> None:
    assert FrameReader(written).count() == 7


@pytest.mark.parametrize("value", [-1, 0.5, float("nan"), float("inf"), 2**53 + 1, "7", None, True, [7]])
def test_anything_else_is_no_whole_number(value: object) -> None:
    with pytest.raises(MalformedMessage):
        FrameReader(msgspec.msgpack.encode(value)).count()


@pytest.mark.parametrize("size", [0, 31, 32, 255, 256, MAX_TEXT_BYTES])
def test_a_text_is_read_with_every_length_of_header(size: int) -> None:
    assert FrameReader(msgspec.msgpack.encode("é" * (size // 2) + "e" * (size % 2))).text()[:1] in ("", "e", "é")


def test_texts_that_are_too_long_or_not_utf8_are_refused() -> None:
    with pytest.raises(TooLarge):
        FrameReader(msgspec.msgpack.encode("e" * (MAX_TEXT_BYTES + 1))).text()
    with pytest.raises(MalformedMessage, match="UTF-8"):
        FrameReader(b"\xa1\xff").text()


def test_nesting_is_bounded() -> None:
    FrameReader(b"\x91" * MAX_DEPTH + b"\x01").skip()
    for opening in (b"\x91", b"\x81\x01"):
        with pytest.raises(MalformedMessage, match="nested deeper than 64 levels"):
            FrameReader(opening * (MAX_DEPTH + 1) + b"\x01").skip()


def test_the_number_of_items_is_bounded_over_all_that_is_stepped_over() -> None:
    reader = FrameReader(b"\x01" * (MAX_ITEMS + 1))
    for _ in range(MAX_ITEMS):
        reader.skip()
    with pytest.raises(MalformedMessage, match="more than 16384 items"):
        reader.skip()


@pytest.mark.parametrize("head", [b"\xdd", b"\xdf", b"\xc6", b"\xc9", b"\xdb"])
def test_a_huge_announced_length_costs_nothing(head: bytes) -> None:
    with pytest.raises(MalformedMessage, match="ends too early"):
        FrameReader(head + b"\xff" * 4).skip()


def test_bytes_are_read_as_bin_and_as_numbers() -> None:
    for document in (b"", b"\x01\xcc\x80", bytes(range(256)), bytes(70_000)):
        for written in (msgspec.msgpack.encode(document), msgspec.msgpack.encode(list(document))):
            reader = FrameReader(written)
            assert bytes(reader.byte_array()) == document
            reader.end()


def test_extensions_are_skipped_only_where_they_are_allowed() -> None:
    written = msgspec.msgpack.encode([msgspec.msgpack.Ext(5, b"123")])
    FrameReader(written).skip()
    with pytest.raises(MalformedMessage, match="0xc7"):
        FrameReader(written).skip(extensions=False)
