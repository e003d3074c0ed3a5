"""Bodies made once, within a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.body_cache import BodyCache
from learning.refusals import StoreUnavailable


def new_cache(max_bytes: int = 100) -> BodyCache[bytes]:
    return BodyCache(max_bytes=max_bytes, size=len)


class Maker:
    """Makes a body when it is let."""

    def __init__(self, body: bytes = b"body") -> None:
        self.made = 0
        self.may_end = asyncio.Event()
        self._body = body

    def make(self) -> Callable[[], Awaitable[bytes]]:
        async def make() -> bytes:
            self.made += 1
            await self.may_end.wait()
            return self._body

        return make


async def test_body_is_made_once_for_all_who_ask_at_the_same_time() -> None:
    cache, maker = new_cache(), Maker()
    asking = [asyncio.create_task(cache.get_or_make("task", "g21", 1, maker.make())) for _ in range(5)]
    await asyncio.sleep(0)
    maker.may_end.set()
    assert await asyncio.gather(*asking) == [b"body"] * 5
    assert await cache.get_or_make("task", "g21", 1, maker.make()) == b"body"
    assert maker.made == 1


async def test_one_who_stops_waiting_does_not_stop_the_others() -> None:
    cache, maker = new_cache(), Maker()
    impatient = asyncio.create_task(cache.get_or_make("task", "g21", 1, maker.make()))
    patient = asyncio.create_task(cache.get_or_make("task", "g21", 1, maker.make()))
    await asyncio.sleep(0)
    impatient.cancel()
    maker.may_end.set()
    assert await patient == b"body"


async def test_failure_is_told_to_all_and_not_kept() -> None:
    cache, maker = new_cache(), Maker()

    async def fail() -> bytes:
        raise StoreUnavailable

    asking = [cache.get_or_make("task", "g21", 1, fail) for _ in range(2)]
    assert [type(failure) for failure in await asyncio.gather(*asking, return_exceptions=True)] == [
        StoreUnavailable,
        StoreUnavailable,
    ]
    maker.may_end.set()
    assert await cache.get_or_make("task", "g21", 1, maker.make()) == b"body"


async def test_two_newest_versions_are_kept() -> None:
    cache = new_cache()
    for version in (1, 2, 3):
        cache.put("task", "g21", version, b"%d" % version)
    assert [cache.get("task", "g21", version) for version in (1, 2, 3)] == [None, b"2", b"3"]
    assert cache.newest("task", "g21") == (3, b"3")
    assert cache.newest("task", "g22") is None


@pytest.mark.parametrize("asked", ["old", "older"])
async def test_what_was_not_asked_for_longest_makes_room(asked: str) -> None:
    cache = new_cache(max_bytes=10)
    cache.put("older", "g21", 1, b"1234")
    cache.put("old", "g21", 1, b"1234")
    cache.get(asked, "g21", 1)
    cache.put("new", "g21", 1, b"1234")
    assert [name for name in ("older", "old", "new") if cache.get(name, "g21", 1)] == (
        ["older", "new"] if asked == "older" else ["old", "new"]
    )


async def test_body_beyond_the_bound_is_kept_alone() -> None:
    cache = new_cache(max_bytes=10)
    cache.put("small", "g21", 1, b"1")
    cache.put("large", "g21", 1, b"x" * 100)
    assert cache.get("small", "g21", 1) is None
    assert cache.get("large", "g21", 1) == b"x" * 100
    cache.put("small", "g21", 1, b"1")
    assert cache.get("large", "g21", 1) is None
