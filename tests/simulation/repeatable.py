"""Running something so that it can be run again, step for step."""

from __future__ import annotations

import gc
import itertools
import random
import secrets
import sys
import traceback
from collections.abc import Coroutine, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest import mock

import structlog

from tests.simulation.processes import Process
from tests.simulation.virtual_loop import OWNER, NothingWillHappen, Spinning
from tests.simulation.world import World

NEVER_LOGGED: tuple[str, ...] = ("round.failed",)
"""What only a bug makes an aggregator log."""
LOGGED_AFTER_POWER_CUTS = ("round.repeated", "version.lost", "version.torn", "contributions.lost")
"""No store loses anything otherwise."""
LOGGED_WHERE_MANGLED = ("round.stuck",)


def run_to_its_end(world: World, work: Coroutine[Any, Any, None]) -> None:
    """Runs to the end, and everything that is left to its end."""
    loop = world.loop

    def complain(_: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        told = "".join(traceback.format_exception(error)) if error else ""
        world.violated(f"the event loop says: {context['message']} {told}")

    loop.set_exception_handler(complain)
    try:
        loop.run_until_complete(work)
    except (NothingWillHappen, Spinning) as stuck:
        world.violated(f"{type(stuck).__name__}: {stuck}")
    except Exception:  # noqa: BLE001 (whatever ends a schedule belongs into its report)
        world.violated(traceback.format_exc())
    finally:
        loop.end()


@contextmanager
def repeatable(world: World) -> Iterator[None]:
    """Takes away what differs from run to run: secrets, global chance, garbage collection. Logs go into the trace."""
    numbers = itertools.count()

    def fresh_id(_: int | None = None) -> str:
        owner = OWNER.get()
        return owner.fresh_id() if isinstance(owner, Process) else f"world.{next(numbers)}"

    def log(_: object, __: str, event: MutableMapping[str, Any]) -> NoReturn:
        owner = OWNER.get()
        name = owner.name if isinstance(owner, Process) else "world"
        world.say(name, f"logs {event}")
        never = NEVER_LOGGED
        never += () if world.power_cuts else LOGGED_AFTER_POWER_CUTS
        never += () if world.power_cuts or "MANGLE" in world.counts else LOGGED_WHERE_MANGLED
        if event["event"] in never:
            world.violated(f"{name} logged {event} {traceback.format_exc() if sys.exc_info()[0] else ''}")
        raise structlog.DropEvent

    configured, state, collects = structlog.get_config(), random.getstate(), gc.isenabled()
    structlog.configure(processors=[log])
    random.seed(world.chance.random())
    gc.disable()
    try:
        with mock.patch.object(secrets, "token_hex", fresh_id):
            yield
    finally:
        structlog.configure(**configured)
        random.setstate(state)
        if collects:
            gc.enable()
