"""Weights in chunks, under limits."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable

import numpy as np
import pytest
from disco.aggregator.v1.aggregator_service_pb2 import (
    HandOverContributionsRequest,
    ReadVersionResponse,
    SubmitContributionRequest,
)
from disco.task.v1.task_service_pb2 import CreateTaskRequest, DownloadModelResponse
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from learning.refusals import DiscoError, InvalidWeights, MalformedMessage, StreamStalled, TooLarge
from rpc.chunks import CHUNK_BYTES, bytes_field, chunk_parts, chunks_of, collect, written_chunks_of

STREAMED = [CreateTaskRequest, DownloadModelResponse, SubmitContributionRequest, ReadVersionResponse]


async def stream(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize(
    ("size", "lengths"),
    [
        (0, []),
        (1, [1]),
        (CHUNK_BYTES, [CHUNK_BYTES]),
        (2 * CHUNK_BYTES + 1, [CHUNK_BYTES, CHUNK_BYTES, 1]),
    ],
)
def test_a_buffer_is_cut_into_chunks_of_one_mebibyte(size: int, lengths: list[int]) -> None:
    buffer = bytes(range(256)) * (size // 256 + 1)
    chunks = list(chunks_of(buffer[:size]))
    assert [len(chunk) for chunk in chunks] == lengths
    assert b"".join(chunks) == buffer[:size]


def test_an_array_is_cut_by_its_bytes_and_not_by_its_items() -> None:
    weights = np.arange(CHUNK_BYTES // 4 + 1, dtype="<f4")
    chunks = list(chunks_of(weights.data))
    assert [len(chunk) for chunk in chunks] == [CHUNK_BYTES, 4]
    assert b"".join(chunks) == weights.tobytes()


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, CHUNK_BYTES, 2 * CHUNK_BYTES + 1])
@pytest.mark.parametrize("kind", STREAMED)
def test_written_chunks_are_the_messages_with_those_chunks(kind: type[Message], size: int) -> None:
    buffer = bytes(range(256)) * (size // 256 + 1)
    expected = [kind(weights_chunk=chunk).SerializeToString() for chunk in chunks_of(buffer[:size])]
    assert [written.octets for written in written_chunks_of(memoryview(buffer)[:size])] == expected


@pytest.mark.parametrize("size", [0, 1, 127, 128, CHUNK_BYTES])
def test_fields_that_are_written_by_hand_are_those_of_the_message(size: int) -> None:
    octets = memoryview(bytes(range(256)) * (size // 256 + 1))[:size]
    contribution = HandOverContributionsRequest.Contribution(participant_id="a", round=3)
    parts = (contribution.SerializeToString(), *bytes_field(contribution.OCTETS_FIELD_NUMBER, octets))
    contribution.octets = bytes(octets)
    assert b"".join(parts) == contribution.SerializeToString()
    whole = HandOverContributionsRequest(task_id="fed", contributions=[contribution, contribution])
    head = HandOverContributionsRequest(task_id="fed").SerializeToString()
    fields = 2 * bytes_field(whole.CONTRIBUTIONS_FIELD_NUMBER, *parts)
    assert b"".join((head, *fields)) == whole.SerializeToString()


def test_a_buffer_can_grow_again_once_its_chunks_are_out() -> None:
    buffer = bytearray(b"weights")
    assert list(chunks_of(buffer)) == [b"weights"]
    buffer += b"!"


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=20))
async def test_collected_bytes_and_digest_are_those_that_were_sent(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    collected, digest = await collect(stream(chunks), size=len(whole), limit=1000, idle_timeout=10)
    assert type(collected) is bytearray
    assert bytes(collected) == whole
    assert digest == hashlib.sha256(whole).hexdigest()


async def test_a_size_above_the_limit_is_refused_before_anything_is_read() -> None:
    async def untouched() -> AsyncIterator[bytes]:
        raise AssertionError("was read")
        yield b""

    with pytest.raises(TooLarge) as caught:
        await collect(untouched(), size=101, limit=100, idle_timeout=10)
    assert caught.value.variables == {"limit_bytes": "100"}


async def test_a_size_at_the_limit_is_taken() -> None:
    collected, _ = await collect(stream([b"x" * 100]), size=100, limit=100, idle_timeout=10)
    assert len(collected) == 100


async def test_a_stream_is_refused_at_the_first_byte_beyond_its_size() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"x" * 40

    with pytest.raises(InvalidWeights, match="more than the announced 100 bytes came"):
        await collect(endless(), size=100, limit=1000, idle_timeout=10)
    assert read == 3


async def test_a_stream_that_ends_early_is_refused() -> None:
    with pytest.raises(InvalidWeights, match="99 bytes came, 100 were announced"):
        await collect(stream([b"x" * 99]), size=100, limit=1000, idle_timeout=10)


async def test_an_empty_chunk_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="a chunk is empty"):
        await collect(stream([b"x", b""]), size=100, limit=1000, idle_timeout=10)


async def test_a_stream_that_falls_silent_is_refused() -> None:
    cancelled = asyncio.Event()

    async def silent() -> AsyncIterator[bytes]:
        yield b"x"
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(StreamStalled) as caught:
        await collect(silent(), size=100, limit=1000, idle_timeout=0.02)
    assert caught.value.variables == {"seconds": "0.02"}
    assert cancelled.is_set()


async def test_the_parts_after_the_header_are_chunks() -> None:
    async def messages() -> AsyncIterator[CreateTaskRequest]:
        yield CreateTaskRequest(weights_chunk=b"a")
        yield CreateTaskRequest(weights_chunk=b"b")

    assert [chunk async for chunk in chunk_parts(messages())] == [b"a", b"b"]


@pytest.mark.parametrize(
    "stray", [CreateTaskRequest(header=CreateTaskRequest.Header()), CreateTaskRequest()], ids=["header", "nothing"]
)
async def test_any_other_part_after_the_header_is_refused(stray: CreateTaskRequest) -> None:
    async def messages() -> AsyncIterator[CreateTaskRequest]:
        yield CreateTaskRequest(weights_chunk=b"a")
        yield stray

    with pytest.raises(DiscoError) as caught:
        await collect(chunk_parts(messages()), size=100, limit=1000, idle_timeout=10)
    assert type(caught.value) is MalformedMessage
