import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.dialects import byte_array
from learning.refusals import MalformedMessage

# Prefix, payload of the same value, and their neighbours: what a decoder confuses most easily.
tricky_bytes = st.lists(st.sampled_from([0x00, 0x7F, 0x80, 0xCB, 0xCC, 0xCD, 0xFF]), max_size=300).map(bytes)


def decoded(item: bytes, count: int, header: int) -> tuple[bytes, int]:
    document, taken = byte_array.decode_items(memoryview(item)[header:], count)
    return bytes(document), taken


@given(st.binary(max_size=300) | tricky_bytes, st.binary(max_size=20))
@example(b"\xcc" * 300, b"\xcc\xcc")
def test_bytes_survive_the_way_there_and_back(document: bytes, behind: bytes) -> None:
    item = byte_array.encode(document)
    header = len(byte_array.array_header(len(document)))
    assert item == msgspec.msgpack.encode(list(document))
    assert decoded(item + behind, len(document), header) == (document, len(item) - header)


@pytest.mark.parametrize("shift", range(4))
def test_an_item_that_straddles_two_chunks_is_read_whole(shift: int) -> None:
    document = b"\x01" * shift + bytes(np.random.default_rng(shift).integers(0, 256, 700_000, np.uint8)) + b"\xcc" * 3
    item = msgspec.msgpack.encode(list(document))
    assert byte_array.encode(document) == item
    assert decoded(item, len(document), 5) == (document, len(item) - 5)


def test_a_run_of_prefixes_across_chunks_alternates() -> None:
    document = b"\xcc" * 400_000
    item = msgspec.msgpack.encode(list(document))
    assert decoded(b"\x01" + item[5:], len(document) + 1, 0) == (b"\x01" + document, 800_001)


def test_a_small_byte_behind_a_prefix_is_taken_though_no_client_writes_it() -> None:
    assert decoded(b"\xcc\x05\xcc\x80\x01", 3, 0) == (b"\x05\x80\x01", 5)


@pytest.mark.parametrize(
    ("region", "count"),
    [
        (b"\x01\xcc", 2),
        (b"\x01", 2),
        (b"", 1),
        (b"\xcc", 1),
        (b"\xcc\xcc\xcc\x81", 3),
    ],
)
def test_an_array_that_ends_too_early_is_malformed(region: bytes, count: int) -> None:
    with pytest.raises(MalformedMessage, match="ends"):
        byte_array.decode_items(memoryview(region), count)


@pytest.mark.parametrize("region", [b"\x80\x01", b"\x01\x90", b"\xff\xff", b"\xcc\x80\xcd\x01\x02", b"\xd0\x01"])
def test_other_items_among_the_bytes_are_malformed(region: bytes) -> None:
    with pytest.raises(MalformedMessage, match="something else than integers from 0 to 255"):
        byte_array.decode_items(memoryview(region), 2)


def test_a_huge_announced_length_is_refused_before_anything_is_allocated() -> None:
    with pytest.raises(MalformedMessage, match="announces 4294967295 bytes"):
        byte_array.decode_items(memoryview(b"\x01\x02"), 2**32 - 1)
