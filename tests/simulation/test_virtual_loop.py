"""The loop of the simulator: time that jumps, threads that wait for nobody, everybody who waits for ever is found."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.simulation.virtual_loop import NothingWillHappen, Spinning, VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop(thread_seconds=lambda: 3.0)
    yield loop
    loop.end()


def test_an_hour_passes_at_once(loop: VirtualLoop) -> None:
    async def sleep() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    started = time.monotonic()
    assert loop.run_until_complete(sleep()) == 3600.0
    assert time.monotonic() - started < 60


def test_timers_and_timeouts_come_in_their_order(loop: VirtualLoop) -> None:
    seen: list[tuple[float, str]] = []

    async def wait(seconds: float, name: str) -> None:
        try:
            async with asyncio.timeout(2.5):
                await asyncio.sleep(seconds)
        except TimeoutError:
            name += " timed out"
        seen.append((loop.time(), name))

    async def all_of_them() -> None:
        loop.call_later(1.5, lambda: seen.append((loop.time(), "callback")))
        await asyncio.gather(wait(3, "c"), wait(2, "b"), wait(1, "a"))

    loop.run_until_complete(all_of_them())
    assert seen == [(1.0, "a"), (1.5, "callback"), (2.0, "b"), (2.5, "c timed out")]


def test_what_goes_to_a_thread_is_done_later_and_here(loop: VirtualLoop) -> None:
    async def compute() -> tuple[int, float]:
        return await asyncio.to_thread(sum, [1, 2, 3]), loop.time()

    assert loop.run_until_complete(compute()) == (6, 3.0)


def test_an_error_in_a_thread_reaches_who_waits(loop: VirtualLoop) -> None:
    async def compute() -> None:
        await asyncio.to_thread(int, "no number")

    with pytest.raises(ValueError, match="no number"):
        loop.run_until_complete(compute())


def test_waiting_for_what_never_happens_is_found(loop: VirtualLoop) -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(NothingWillHappen):
        loop.run_until_complete(wait())


def test_turning_without_end_is_found(loop: VirtualLoop) -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Spinning):
        loop.run_until_complete(spin())
