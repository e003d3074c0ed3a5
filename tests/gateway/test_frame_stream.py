"""The reader of large frames against the one it stands in for."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.streams import StreamReader

from gateway import frame_stream
from gateway.frame_stream import CollectingReader
from gateway.web_server import GatewaySocketProtocol
from tests.gateway.conftest import Running

STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) << 10


def outcome(step: Generator[None, None, Any]) -> object:
    """What a read gives, why it fails, or None while it waits."""
    try:
        next(step)
    except StopIteration as done:
        return done.value
    except EOFError as ended:
        return str(ended)
    return None


def drive(reader: StreamReader, reads: list[int], feeds: list[bytes], ends: bool) -> list[object]:
    """Feeds, and reads as far as that goes; gives what each read came to."""
    wanted = iter(reads)
    done: list[object] = []
    reading: Generator[None, None, Any] | None = None
    for feed in [*feeds, None]:
        if feed is not None:
            reader.feed_data(feed)
        elif ends:
            reader.feed_eof()
        while True:
            if reading is None:
                size = next(wanted, None)
                if size is None:
                    return done
                reading = reader.read_exact(size)
            result = outcome(reading)
            if result is None:
                break
            done.append(result)
            reading = None
            if isinstance(result, str):
                return done
    return done


@pytest.fixture(autouse=True)
def _small_frames_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_stream, "COLLECTED_FROM_BYTES", 4)


@settings(deadline=None)
@given(
    reads=st.lists(st.integers(0, 12), max_size=8),
    feeds=st.lists(st.binary(max_size=9), max_size=12),
    ends=st.booleans(),
)
def test_every_read_gives_what_websockets_own_reader_gives(reads: list[int], feeds: list[bytes], ends: bool) -> None:
    assert drive(CollectingReader(), reads, feeds, ends) == drive(StreamReader(), reads, feeds, ends)


def test_rest_of_a_frame_that_nobody_wants_any_more_is_not_kept() -> None:
    reader = CollectingReader()
    reader.feed_data(b"ab")
    assert outcome(reader.read_exact(100)) is None
    reader.feed_data(b"cd")
    at_eof = reader.at_eof()  # how websockets begins to discard
    assert outcome(at_eof) is None
    reader.feed_data(b"ef")
    assert outcome(at_eof) is False
    assert reader.buffer == b"ef"
    reader.discard()
    reader.feed_eof()
    assert outcome(reader.at_eof()) is True


def test_a_stream_of_single_bytes_is_put_together() -> None:
    reader = CollectingReader()
    reading = reader.read_exact(1000)
    assert outcome(reading) is None
    for number in range(999):
        reader.feed_data(bytes([number % 256]))
    assert outcome(reading) is None
    reader.feed_data(b"!")
    assert outcome(reading) == bytes(number % 256 for number in range(999)) + b"!"


def test_who_fills_the_place_of_a_frame_need_not_feed_it() -> None:
    reader = CollectingReader()
    reader.feed_data(b"ab")
    reading = reader.read_exact(6)
    assert outcome(reading) is None
    assert len(reader.rest) == 4
    reader.rest[:3] = b"cde"
    reader.filled(3)
    reader.feed_data(b"fg")
    assert outcome(reading) == b"abcdef"
    assert (reader.buffer, len(reader.rest)) == (b"g", 0)


@pytest.mark.skipif(not STATUS.exists(), reason="memory is read from /proc")
def test_frames_that_are_only_announced_take_no_memory() -> None:
    announced = []
    before = resident_bytes()
    for _ in range(50):
        reader = CollectingReader()
        reading = reader.read_exact(30 << 20)
        assert outcome(reading) is None
        announced.append((reader, reading))
    assert resident_bytes() - before < 10 << 20


async def test_sockets_of_the_gateway_use_it(gateway: Running) -> None:
    async with connect(f"{gateway.socket_url}/feai/fed/me"):
        (protocol,) = gateway.server.server_state.connections
        assert isinstance(protocol, GatewaySocketProtocol)
        assert isinstance(protocol.conn.reader, CollectingReader)


def test_nothing_can_be_fed_after_the_end() -> None:
    reader = CollectingReader()
    assert outcome(reader.read_exact(100)) is None
    reader.feed_eof()
    with pytest.raises(EOFError):
        reader.feed_data(b"late")
