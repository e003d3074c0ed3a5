"""What all parts of a schedule share: chance, the weather, the clock, and the record of what happened.

Everything that is left to chance is drawn from one generator, in the order in which it
is needed, so a seed is the whole schedule.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from learning.refusals import DiscoError
from tests.simulation.virtual_loop import OWNER, VirtualLoop

EPOCH_S = 1_700_000_000.0
"""What clocks show at the beginning."""
FASTEST_S, SLOWEST_S = 0.0001, 0.004
"""How long a step takes that nothing goes wrong with."""


class Fault(Enum):
    """What may go wrong with one call."""

    KILL = "kill the replica a few steps later"
    DELAY = "delay"
    TWICE = "do it twice"
    LOSE_REQUEST = "lose the request"
    LOSE_REPLY = "lose the reply"
    LATE = "lose the request, and do it later all the same"
    OUTAGE = "lose every request for a while"
    MANGLE = "read something else, this once"


Weather = Mapping[Fault, float]
"""How often each goes wrong, per call."""


@dataclass
class World:
    """`now` is what a clock without error shows."""

    loop: VirtualLoop
    chance: random.Random
    weather: Weather
    violations: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    _trace: list[tuple[float, str, str, str]] = field(default_factory=list)
    _background: set[asyncio.Task[Any]] = field(default_factory=set)
    is_calm: bool = False
    power_cuts: list[float] = field(default_factory=list)
    """When the power failed."""

    def now(self) -> float:
        return EPOCH_S + self.loop.time()

    def say(self, who: str, what: str, happens: str = "") -> None:
        self._trace.append((self.loop.time(), who, what, happens))

    def violated(self, promise: str) -> None:
        self.violations.append(promise)
        self.say("!", promise)

    def fault(self) -> Fault | None:
        """What goes wrong with the next call."""
        if self.is_calm:
            return None
        left = self.chance.random()
        for fault, rate in self.weather.items():
            left -= rate
            if left < 0:
                self.counts[fault.name] = self.counts.get(fault.name, 0) + 1
                return fault
        return None

    def calm_down(self) -> None:
        """From now on nothing goes wrong."""
        self.is_calm = True
        self.say("world", "the weather is calm")

    async def pause(self) -> None:
        """As long as a step takes."""
        await asyncio.sleep(self.chance.uniform(FASTEST_S, SLOWEST_S))

    def some_seconds(self) -> float:
        """A delay: mostly short, sometimes longer than a lease."""
        return min(self.chance.expovariate(1.0) * self.chance.choice((0.01, 0.1, 1.0, 5.0)), 20.0)

    def in_background(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs what belongs to nobody who could die."""
        token = OWNER.set(None)
        try:
            task = self.loop.create_task(work)
        finally:
            OWNER.reset(token)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def later(self, seconds: float, who: str, what: str, do: Callable[[], Awaitable[Any]]) -> None:
        """Does something later, whoever is dead by then; nobody hears of its outcome."""

        async def wait_and_do() -> None:
            cuts = len(self.power_cuts)
            await asyncio.sleep(seconds)
            if cuts < len(self.power_cuts):
                return
            self.say(who, what, "arrives late")
            await regardless(do)

        self.in_background(wait_and_do())

    def trace(self) -> str:
        """One line for each thing that happened: virtual seconds, who, what was awaited, what was made of it."""
        return "\n".join(
            f"{at:10.4f}  {who:<8} {what}{f'  ← {note}' if note else ''}" for at, who, what, note in self._trace
        )


OUTCOMES = ("RoundMoved", "NotDue", "GroupConflict", "BlobMissing", "BlobExists")


async def regardless(do: Callable[[], Awaitable[Any]]) -> None:
    """Does something of which nobody hears the outcome. Bugs are heard of all the same."""
    try:
        await do()
    except DiscoError:
        pass
    except Exception as outcome:
        if type(outcome).__name__ not in OUTCOMES:
            raise
