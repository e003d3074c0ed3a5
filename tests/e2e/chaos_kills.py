"""A plan of kill -9, made from a seed, and its execution."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from dataclasses import dataclass

from tests.e2e.system import START_S, System
from tests.waiting import eventually


@dataclass(frozen=True)
class Kill:
    """Whom to kill, so many seconds after the kill before it."""

    victim: str
    pause_s: float


def plan(victims: list[str], count: int, rng: random.Random) -> list[Kill]:
    """Everyone at least once if there are enough; some come with the one before, some before that one is back."""
    chosen = rng.sample(victims, len(victims))
    chosen += [rng.choice(victims) for _ in range(count - len(chosen))]
    return [Kill(victim, rng.choice((0.0, rng.uniform(0, 2), rng.uniform(1, 4)))) for victim in chosen[:count]]


async def execute(kills: list[Kill], system: System) -> None:
    """Kills each as soon as it is there: also one that is just starting."""
    for kill in kills:
        await asyncio.sleep(kill.pause_s)

        async def is_there(victim: str = kill.victim) -> bool:
            return victim in system.children()

        await eventually(is_there, START_S)
        os.kill(system.children()[kill.victim], signal.SIGKILL)
