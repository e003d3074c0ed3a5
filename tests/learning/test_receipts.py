"""What a receipt states has one spelling, and every field is in it."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning.receipts import Statement, key_id

STATEMENT = Statement(task_id="titanic", round=7, participant_id="alice", digest="ab" * 32, weight=20, position=3)
ids = st.from_regex(r"[A-Za-z0-9_.-]{1,128}", fullmatch=True)
numbers = st.integers(0, 2**64 - 1)
statements = st.builds(
    Statement,
    task_id=ids,
    round=numbers,
    participant_id=ids,
    digest=st.binary(min_size=32, max_size=32).map(bytes.hex),
    weight=numbers,
    position=numbers,
)


def test_bytes_are_those_that_the_contract_promises() -> None:
    assert STATEMENT.encode() == (
        b"disco receipt v1"
        + b"\x00\x07titanic"
        + b"\x00\x00\x00\x00\x00\x00\x00\x07"
        + b"\x00\x05alice"
        + b"\xab" * 32
        + b"\x00\x00\x00\x00\x00\x00\x00\x14"
        + b"\x00\x00\x00\x00\x00\x00\x00\x03"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"task_id": "titania"},
        {"round": 8},
        {"participant_id": "alicf"},
        {"digest": "ab" * 31 + "aa"},
        {"weight": 21},
        {"position": 4},
    ],
)
def test_another_field_makes_other_bytes(change: dict[str, object]) -> None:
    assert replace(STATEMENT, **change).encode() != STATEMENT.encode()


@given(statements, statements)
def test_two_statements_never_share_their_bytes(one: Statement, other: Statement) -> None:
    assert (one.encode() == other.encode()) == (one == other)


@given(statements)
def test_bytes_can_be_read_back_by_hand(statement: Statement) -> None:
    data = statement.encode()
    assert data[:16] == b"disco receipt v1"
    (size,) = struct.unpack_from(">H", data, 16)
    task, rest = data[18 : 18 + size].decode(), data[18 + size :]
    number, size = struct.unpack_from(">QH", rest)
    participant, rest = rest[10 : 10 + size].decode(), rest[10 + size :]
    weight, position = struct.unpack(">QQ", rest[32:])
    assert Statement(task, number, participant, rest[:32].hex(), weight, position) == statement


@pytest.mark.parametrize(
    "change",
    [
        {"round": -1},
        {"weight": 2**64},
        {"position": -1},
        {"digest": "ab" * 31},
        {"digest": "xy" * 32},
        {"task_id": "tïtanic"},
        {"participant_id": "a" * 65536},
    ],
)
def test_what_no_receipt_could_state_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        replace(STATEMENT, **change).encode()


def test_a_key_is_called_by_the_start_of_its_digest() -> None:
    assert key_id(bytes(32)) == hashlib.sha256(bytes(32)).hexdigest()[:16]
