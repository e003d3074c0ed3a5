"""A round store that goes wrong where it is told to."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable
from typing import Any

from learning.refusals import StoreUnavailable
from roundstore.store import RoundStore

Method = Callable[[], Awaitable[Any]]
Trouble = Callable[[Method], Awaitable[Any]]
"""Is given the call that was meant, and answers in its place."""


class TroubledStore:
    """Passes everything on to a store, except for calls that trouble was ordered for."""

    def __init__(self, store: RoundStore) -> None:
        self._store = store
        self._troubles: dict[str, deque[Trouble]] = defaultdict(deque)
        self.calls: Counter[str] = Counter()
        """How often each method was called."""

    def trouble(self, method: str, *troubles: Trouble) -> None:
        """The next calls of a method meet these, one each."""
        self._troubles[method].extend(troubles)

    def __getattr__(self, name: str) -> Any:
        passed_on = getattr(self._store, name)
        if name == "watch":
            return passed_on

        async def method(*args: Any, **kwargs: Any) -> Any:
            def call() -> Awaitable[Any]:
                return passed_on(*args, **kwargs)  # type: ignore[no-any-return]

            self.calls[name] += 1
            troubles = self._troubles[name]
            return await (troubles.popleft()(call) if troubles else call())

        return method


async def fail(call: Method) -> Any:
    """The store cannot be reached."""
    raise StoreUnavailable


async def lose_answer(call: Method) -> Any:
    """The store does it, and the answer is lost."""
    await call()
    raise StoreUnavailable


async def send_twice(call: Method) -> Any:
    """The store does it, the answer is lost, and the client of the store sends it again."""
    await call()
    return await call()


class Late:
    """The store is not reached in time; it does what was asked when `arrive` is called."""

    def __init__(self) -> None:
        self._calls: list[Method] = []

    async def __call__(self, call: Method) -> Any:
        self._calls.append(call)
        raise StoreUnavailable

    async def arrive(self) -> None:
        for call in self._calls:
            await call()


class Held:
    """The call waits for `release`, before it is made or (`after`) before it is answered."""

    def __init__(self, *, after: bool = False, then: Trouble | None = None) -> None:
        self.reached = asyncio.Event()
        self.release = asyncio.Event()
        self._after = after
        self._then = then

    async def __call__(self, call: Method) -> Any:
        if self._after:
            await call()
        self.reached.set()
        await self.release.wait()
        return await (self._then(call) if self._then else call())
