"""A gateway that watches the rounds, at one replica after the other, and takes the versions that come with the news."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from disco.aggregator.v1 import aggregator_service_pb2 as messages

from learning.refusals import DiscoError
from services.aggregator.servicer import AggregatorServicer
from tests.simulation.processes import Slot
from tests.simulation.small_task import TASK_ID
from tests.simulation.world import World


@dataclass(frozen=True, slots=True)
class Brought:
    """A version as it came."""

    at: float
    number: int
    """Of the round with the news of which it came."""
    digest: str
    """As it was told."""
    weights: bytes


class Watcher:
    """Watches until the schedule is over; where a replica dies, it goes to another one."""

    def __init__(self, world: World, slots: Sequence[Slot]) -> None:
        self.brought: list[Brought] = []
        self._world = world
        self._slots = slots

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._world.some_seconds())
            slot = self._world.chance.choice(self._slots)
            if slot.process is None or slot.servicer is None:
                continue
            ended = asyncio.Event()
            slot.process.when_dead(ended.set)
            watching = slot.process.spawn(self._watch(slot.servicer))
            watching.add_done_callback(lambda _, ended=ended: ended.set())  # type: ignore[misc]
            try:
                async with asyncio.timeout(10 * self._world.some_seconds()):
                    await ended.wait()
            except TimeoutError:
                watching.cancel()

    async def _watch(self, servicer: AggregatorServicer) -> None:
        request = messages.WatchRoundsRequest(task_id=TASK_ID, takes_versions=True)
        try:
            async for message in servicer.WatchRounds(request, None):
                if message.HasField("new_version"):
                    digest, weights = message.new_version.header.sha256.hex(), bytes(message.new_version.octets)
                    self.brought.append(Brought(self._world.loop.time(), message.round.number, digest, weights))
        except DiscoError:
            pass  # it watches elsewhere
