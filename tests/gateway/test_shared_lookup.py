"""One look-up for all who ask for the same before it begins."""

from __future__ import annotations

import asyncio

import pytest

from gateway.shared_lookup import SharedLookup


class Counted:
    """Answers with how often it was asked, when it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.let = asyncio.Semaphore(0)

    async def look_up(self, key: str) -> str:
        self.asked += 1
        answer = f"{key} {self.asked}"
        await self.let.acquire()
        return answer


async def test_all_who_ask_at_once_share_one_lookup() -> None:
    counted = Counted()
    shared = SharedLookup(counted.look_up)
    counted.let.release()
    assert await asyncio.gather(*(shared.find("a") for _ in range(5))) == ["a 1"] * 5


async def test_who_asks_after_a_lookup_began_gets_a_later_one_shared_with_all_who_did() -> None:
    counted = Counted()
    shared = SharedLookup(counted.look_up)
    first = asyncio.create_task(shared.find("a"))
    while counted.asked == 0:
        await asyncio.sleep(0)
    later = [asyncio.create_task(shared.find("a")) for _ in range(3)]
    counted.let.release()
    assert await first == "a 1"
    counted.let.release()
    assert await asyncio.gather(*later) == ["a 2"] * 3


async def test_keys_do_not_wait_for_each_other() -> None:
    counted = Counted()
    shared = SharedLookup(counted.look_up)
    asking = [asyncio.create_task(shared.find(key)) for key in "ab"]
    while counted.asked < 2:
        await asyncio.sleep(0)
    counted.let.release()
    counted.let.release()
    assert await asyncio.gather(*asking) == ["a 1", "b 2"]


async def test_one_who_stops_waiting_takes_the_answer_from_nobody() -> None:
    counted = Counted()
    shared = SharedLookup(counted.look_up)
    impatient, patient = (asyncio.create_task(shared.find("a")) for _ in range(2))
    while counted.asked == 0:
        await asyncio.sleep(0)
    impatient.cancel()
    counted.let.release()
    assert await patient == "a 1"
    assert impatient.cancelled()


async def test_failure_is_told_to_all_and_the_next_one_looks_up_anew() -> None:
    outcomes = iter([OSError("away"), None])

    async def look_up(key: str) -> str:
        if (failure := next(outcomes)) is not None:
            raise failure
        return key

    shared = SharedLookup(look_up)
    failed = await asyncio.gather(*(shared.find("a") for _ in range(2)), return_exceptions=True)
    assert [type(one) for one in failed] == [OSError, OSError]
    assert await shared.find("a") == "a"
    with pytest.raises(StopIteration):
        next(outcomes)
