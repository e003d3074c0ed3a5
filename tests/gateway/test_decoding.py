"""Frames of all sizes, decoded where they disturb least."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gateway.decoding import LARGE_BYTES, LOOP_HELD_S, MEDIUM_BYTES, Decoding


class Clock:
    """Stands still until somebody decodes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def decode_for(self, seconds: float) -> None:
        self.now += seconds


MEDIUM = bytes(MEDIUM_BYTES)


@pytest.mark.parametrize(
    ("size", "on_loop"), [(1, True), (MEDIUM_BYTES, True), (LARGE_BYTES - 1, True), (LARGE_BYTES, False)]
)
async def test_large_frame_is_decoded_beside_the_loop(size: int, on_loop: bool) -> None:
    decoded_in = await Decoding().decoded(bytes(size), lambda frame: threading.get_ident())
    assert (decoded_in == threading.get_ident()) is on_loop


async def test_loop_goes_round_between_medium_frames_that_come_at_once() -> None:
    # What should happen: after LOOP_HELD_S of decoding, others have their turn; the frames keep their order.
    # What should not happen: that one frame of many waits for ever, or that each takes a turn of its own.
    clock = Clock()
    decoding = Decoding(clock=clock)
    happened: list[str] = []

    async def client(name: str) -> None:
        await decoding.decoded(MEDIUM, lambda frame: clock.decode_for(LOOP_HELD_S / 2))
        happened.append(name)

    async def everybody_else() -> None:
        for _ in range(3):
            happened.append("else")
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for name in "abcdef":
            group.create_task(client(name))
        group.create_task(everybody_else())

    assert happened == ["a", "b", "else", "c", "d", "else", "e", "f", "else"]


async def test_frame_that_cannot_be_decoded_fails_for_its_sender_and_counts_as_held() -> None:
    clock = Clock()
    decoding = Decoding(clock=clock)

    def refuse(frame: bytes) -> None:
        clock.decode_for(LOOP_HELD_S)
        raise ValueError

    with pytest.raises(ValueError):
        await decoding.decoded(MEDIUM, refuse)
    others_turn = asyncio.Event()
    asyncio.get_running_loop().call_soon(others_turn.set)
    assert await decoding.decoded(MEDIUM, lambda frame: others_turn.is_set())


async def test_small_frame_does_not_wait_for_medium_ones() -> None:
    clock = Clock()
    decoding = Decoding(clock=clock)
    await decoding.decoded(MEDIUM, lambda frame: clock.decode_for(LOOP_HELD_S))
    others_turn = asyncio.Event()
    asyncio.get_running_loop().call_soon(others_turn.set)
    assert await decoding.decoded(b"small", lambda frame: not others_turn.is_set())
