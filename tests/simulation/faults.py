"""Stores as a replica sees them from afar: every call takes time, and any call may go wrong.

Knows which methods there are by their names only. What may happen to a call is `world.Fault`; it is
decided by chance, and written into the trace.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from learning.refusals import StoreUnavailable
from tests.simulation.processes import Process
from tests.simulation.world import Fault, World, regardless

MOST_STEPS_TO_DEATH = 12


@dataclass(frozen=True)
class Request:
    """A call of a store's method that may be made now, later, twice, or break off."""

    store: Any
    method: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    def __str__(self) -> str:
        """As the trace shows it: no weights, and no task, for there is only one."""
        shown = [self.args[0]] if self.args and "/" in str(self.args[0]) else self.args[1:]
        if self.method == "open_round":
            shown = []
        words = [_short(value) for value in shown]
        words += [f"{key}={_short(value)}" for key, value in self.kwargs.items() if key not in ("epoch", "now")]
        return " ".join([self.method, *words])

    def do(self) -> Awaitable[Any]:
        return getattr(self.store, self.method)(*self.args, **self.kwargs)  # type: ignore[no-any-return]

    def sent(self) -> Request:
        """The request as it is on its way: what is written is what it was when it was sent."""
        if self.method not in ("write", "keep", "write_slot"):
            return self
        name, parts = self.args
        return Request(self.store, self.method, (name, [bytes(part) for part in parts]), self.kwargs)

    def break_off(self) -> None:
        """Of a slot, anything may be written by then; all else happens whole or not at all."""
        if self.method == "write_slot":
            self.store.tear_slot(*self.args)


class Afar:
    """A round store or a blob store, as one process sees it."""

    def __init__(self, store: Any, world: World, process: Process) -> None:
        self._store = store
        self._world = world
        self._process = process

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def method(*args: Any, **kwargs: Any) -> Any:
            return await self._call(Request(self._store, name, args, kwargs))

        return method

    async def read_chunks(self, name: str, *, chunk_size: int) -> AsyncIterator[bytes]:
        """Several chunks of even a small blob."""
        async for chunk in self._store.read_chunks(name, chunk_size=8 * self._world.chance.randint(12, 30)):
            fault = await self._before(f"read_chunks {name}")
            if fault in (Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.LATE):
                raise StoreUnavailable
            yield self._mangled(chunk) if fault is Fault.MANGLE else chunk

    async def watch(self) -> AsyncIterator[Any]:
        """Hints may be lost, repeated and late; where the connection is lost, all open tasks are named again."""
        world = self._world
        while await self._before("watch") not in (Fault.LOSE_REQUEST, Fault.LATE):
            async for hint in self._store.watch():
                # A store hands its hints out in no order that could be repeated.
                await asyncio.sleep(self._process.number * 1e-6)
                fault = await self._before(f"hint {hint.task_id}")
                if fault is Fault.OUTAGE or world.loop.time() < self._process.outage_until:
                    break
                if fault not in (Fault.LOSE_REQUEST, Fault.LOSE_REPLY):
                    for _ in range(2 if fault is Fault.TWICE else 1):
                        yield hint
            world.say(self._process.name, "watch", "connection lost")
            await asyncio.sleep(world.some_seconds())
        raise StoreUnavailable

    async def _call(self, request: Request) -> Any:
        world = self._world
        fault = await self._before(str(request))
        if fault is Fault.LATE:
            world.later(world.some_seconds(), self._process.name, str(request), request.sent().do)
        if fault in (Fault.LATE, Fault.LOSE_REQUEST):
            if world.chance.random() < 0.5:
                request.break_off()
            await world.pause()
            raise StoreUnavailable
        if fault is Fault.TWICE:
            await regardless(request.do)
            await world.pause()
            self._stop_the_dead()
        answer, outcome = None, None
        try:
            answer = await request.do()
        except Exception as error:  # noqa: BLE001 (whatever it is, it travels back as an answer does)
            outcome = error
        self._stop_the_dead()
        await world.pause()
        self._stop_the_dead()
        if fault is Fault.LOSE_REPLY:
            raise StoreUnavailable
        if outcome is not None:
            world.say(self._process.name, f"  … {request.method}: {type(outcome).__name__}")
            raise outcome
        return answer

    async def _before(self, what: str) -> Fault | None:
        """What goes wrong with a call, after the time it takes to get there."""
        world, process = self._world, self._process
        self._stop_the_dead()
        fault = world.fault()
        if fault is Fault.OUTAGE:
            process.outage_until = world.loop.time() + world.some_seconds()
        if world.loop.time() < process.outage_until and not world.is_calm:
            fault = Fault.LOSE_REQUEST
        world.say(process.name, what, fault.value if fault else "")
        if fault is Fault.KILL:
            process.kill_soon(world.chance.randrange(MOST_STEPS_TO_DEATH))
        elif fault is Fault.DELAY:
            await asyncio.sleep(world.some_seconds())
        await world.pause()
        self._stop_the_dead()
        return fault

    def _mangled(self, chunk: bytes) -> bytes:
        """The same but for one byte."""
        place = self._world.chance.randrange(len(chunk))
        return chunk[:place] + bytes([chunk[place] ^ 1 << self._world.chance.randrange(8)]) + chunk[place + 1 :]

    def _stop_the_dead(self) -> None:
        """Whoever is dead neither calls nor hears an answer."""
        if not self._process.alive:
            raise asyncio.CancelledError


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value % 1e6:.3f}"
    if hasattr(value, "blob"):
        return f"{value.blob.rsplit('/', 1)[-1]}(n={value.contributions} {value.digest[:6]})"
    if isinstance(value, list | tuple | range):
        return "[" + ", ".join(_short(each) for each in value) + "]"
    if hasattr(value, "sentence"):
        return f"{value.participant_id}:{value.digest[:6]} {value.reason}"
    if hasattr(value, "participant_id"):
        return f"{value.participant_id}:{value.digest[:6]}×{value.weight}"
    return str(value)
