"""Replicas that are born, die without a farewell, and are replaced by others of a new name.

A dead replica does nothing more: its tasks are cancelled, and while they unwind every
call of theirs to a store goes nowhere (`faults.py` asks `alive`). Its memory is never read again.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

from prometheus_client import CollectorRegistry

from blobstore.store import BlobStore
from roundstore.store import RoundStore
from services.aggregator.receipt_key import ReceiptKey
from services.aggregator.replica import Replica
from services.aggregator.servicer import AggregatorServicer
from tests.simulation.virtual_loop import OWNER
from tests.simulation.world import World

UNWIND_S = 1.0
"""Virtual seconds after which nothing of a dead replica may be left."""


class Process:
    """One life of a replica."""

    def __init__(self, world: World, name: str, *, number: int) -> None:
        self.name = name
        self.number = number
        """Of its place; of no other process that lives at the same time."""
        self.alive = True
        self._world = world
        self._tasks: list[asyncio.Task[Any]] = []
        self._when_dead: list[Callable[[], None]] = []
        self._context = contextvars.copy_context()
        self._context.run(OWNER.set, self)
        self._ids = 0
        self.outage_until = 0.0

    def adopt(self, task: asyncio.Task[Any]) -> None:
        self._tasks.append(task)
        if len(self._tasks) > 200:
            self._tasks = [task for task in self._tasks if not task.done()]
        if not self.alive:
            task.cancel()

    def run(self, make: Callable[[], Any]) -> Any:
        """Calls something as this process."""
        return self._context.copy().run(make)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = self.run(lambda: self._world.loop.create_task(work))
        return task

    def fresh_id(self) -> str:
        """A word that nobody had before."""
        self._ids += 1
        return f"{self.name}.{self._ids}"

    def when_dead(self, callback: Callable[[], None]) -> None:
        self._when_dead.append(callback)

    def kill_soon(self, steps: int) -> None:
        """Kills the process after so many turns of the event loop: within any await, not only those of a store."""
        if steps and self.alive:
            self._world.loop.call_soon(self.kill_soon, steps - 1)
        else:
            self.kill()

    def kill(self) -> None:
        if not self.alive:
            return
        self._world.say(self.name, "dies")
        self.alive = False
        for task in self._tasks:
            task.cancel()
        self._world.loop.call_later(UNWIND_S, self._check_that_nothing_goes_on)
        for callback in self._when_dead:
            callback()

    def _check_that_nothing_goes_on(self) -> None:
        left = [task.get_coro() for task in self._tasks if not task.done()]
        if left:
            self._world.violated(f"{self.name} is dead, and these of its tasks go on: {left}")


class Slot:
    """A place for a replica: whenever the one in it dies, another one is started there."""

    def __init__(
        self,
        world: World,
        number: int,
        *,
        stores: Callable[[Process], tuple[RoundStore, BlobStore]],
        receipt_key: ReceiptKey,
        skew_s: float,
        settings: dict[str, Any],
    ) -> None:
        self._world = world
        self._number = number
        self._stores = stores
        self._receipt_key = receipt_key
        self._skew_s = skew_s
        self._settings = settings
        self._lives = 0
        self.process: Process | None = None
        self.servicer: AggregatorServicer | None = None

    def start(self) -> None:
        self._lives += 1
        process = Process(self._world, f"r{self._number}.{self._lives}", number=self._number)
        process.when_dead(self._replace)
        store, blobs = self._stores(process)

        def new_replica() -> Replica:
            return Replica(
                store,
                blobs,
                receipt_key=self._receipt_key,
                registry=CollectorRegistry(),
                clock=lambda: self._world.now() + self._skew_s,
                **self._settings,
            )

        replica: Replica = process.run(new_replica)

        async def live() -> None:
            async with replica.running():
                await asyncio.get_running_loop().create_future()

        process.spawn(live())
        self.process, self.servicer = process, replica.servicer
        self._world.say(process.name, f"starts, as {replica.replica_id}")

    def _replace(self) -> None:
        self.process = self.servicer = None
        self._world.loop.call_later(self._world.some_seconds(), self.start, context=contextvars.Context())
