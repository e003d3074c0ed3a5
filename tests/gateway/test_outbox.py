"""The queue in front of a socket."""

from __future__ import annotations

import asyncio

import pytest

from gateway.outbox import Outbox
from learning.refusals import SlowConsumer


async def test_frames_come_out_in_order() -> None:
    outbox = Outbox(max_frames=3, max_bytes=10)
    for frame in (b"a", b"b", b"c"):
        outbox.put(frame)
    assert [await outbox.get() for _ in range(3)] == [b"a", b"b", b"c"]


async def test_reader_waits_for_a_frame() -> None:
    outbox = Outbox(max_frames=3, max_bytes=10)
    reading = asyncio.create_task(outbox.get())
    await asyncio.sleep(0)
    assert not reading.done()
    outbox.put(b"a")
    assert await asyncio.wait_for(reading, 5) == b"a"


async def test_slow_reader_is_refused_at_the_bound_on_frames() -> None:
    outbox = Outbox(max_frames=2, max_bytes=10)
    outbox.put(b"a")
    outbox.put(b"b")
    with pytest.raises(SlowConsumer):
        outbox.put(b"c")
    await outbox.get()
    outbox.put(b"c")


async def test_slow_reader_is_refused_at_the_bound_on_bytes() -> None:
    outbox = Outbox(max_frames=9, max_bytes=10)
    outbox.put(b"123456")
    with pytest.raises(SlowConsumer):
        outbox.put(b"12345")
    outbox.put(b"1234")


async def test_one_frame_fits_always() -> None:
    outbox = Outbox(max_frames=9, max_bytes=10)
    outbox.put(b"x" * 100)
    assert await outbox.get() == b"x" * 100
