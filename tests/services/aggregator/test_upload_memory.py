from __future__ import annotations

import asyncio

import pytest

from services.aggregator.upload_memory import UploadMemory


async def held(memory: UploadMemory, size: int, release: asyncio.Event, order: list[int]) -> None:
    async with memory.lend(size):
        order.append(size)
        await release.wait()


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_memory_is_lent_up_to_its_bound_in_the_order_of_asking() -> None:
    memory, order = UploadMemory(10), list[int]()
    releases = [asyncio.Event() for _ in range(4)]
    tasks = [
        asyncio.create_task(held(memory, size, release, order))
        for size, release in zip((6, 4, 5, 1), releases, strict=True)
    ]
    await turn()
    assert (order, memory.lent) == ([6, 4], 10)
    releases[1].set()
    await turn()
    assert (order, memory.lent) == ([6, 4], 6)  # 1 would fit, but 5 asked before it
    releases[0].set()
    await turn()
    assert (order, memory.lent) == ([6, 4, 5, 1], 6)
    for release in releases:
        release.set()
    await asyncio.gather(*tasks)
    assert memory.lent == 0


async def test_what_is_larger_than_all_memory_gets_all_of_it() -> None:
    memory = UploadMemory(10)
    async with memory.lend(1000):
        assert memory.lent == 10
    assert memory.lent == 0


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_memory_comes_back_from_those_who_give_up(cancelled: int) -> None:
    memory, order = UploadMemory(10), list[int]()
    releases = [asyncio.Event() for _ in range(3)]
    tasks = [asyncio.create_task(held(memory, 7, release, order)) for release in releases]
    await turn()
    tasks[cancelled].cancel()
    for release in releases:
        release.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert memory.lent == 0
    async with memory.lend(10):
        assert memory.lent == 10


async def test_memory_comes_back_from_one_who_gives_up_just_when_the_turn_comes() -> None:
    memory, order = UploadMemory(10), list[int]()
    async with memory.lend(10):
        waiting = asyncio.create_task(held(memory, 7, asyncio.Event(), order))
        await turn()
    assert memory.lent == 7  # its turn has come, and it has not run yet
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (order, memory.lent) == ([], 0)
