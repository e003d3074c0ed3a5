"""One schedule, from its seed: replicas, participants and bad weather, then calm, then the promises.

0 s            replicas start, participants come; faults fall on every await
≤ 60 s         the weather turns calm; dead replicas are replaced, nothing goes wrong any more
+ 600 s        by now every participant must have been answered
+ 120 s        and the round must have closed, or say that it waits for participants
the end        everything stops; what is stored is compared with what was promised, and with
               a run without faults that is given the same contributions in another order
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from learning.waiting import waiting_for
from roundstore.memory_store import MemoryRoundStore
from roundstore.store import RoundStore
from rpc import off_loop
from services.aggregator.receipt_key import ReceiptKey
from tests.simulation import without_faults
from tests.simulation.faults import Afar
from tests.simulation.participants import Gateway, Participant, Sent
from tests.simulation.plan import Plan, a_plan, a_policy
from tests.simulation.power import FailingBlobs, FailingRounds
from tests.simulation.processes import Process, Slot
from tests.simulation.promises import Outcome, broken_promises, is_settled, read_outcome, what_was_brought_wrong
from tests.simulation.repeatable import repeatable, run_to_its_end
from tests.simulation.small_task import TASK_ID, add_task
from tests.simulation.virtual_loop import VirtualLoop
from tests.simulation.watchers import Watcher
from tests.simulation.world import World

STORM_S = 60.0
ANSWERED_S = 600.0
SETTLED_S = 120.0
RESTARTED_S = 40.0
RECEIPT_KEY = ReceiptKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))


@dataclass
class Report:
    """What came of a schedule."""

    seed: int
    violations: list[str]
    trace: str
    """Where promises were broken, or it was asked for."""
    faults: dict[str, int]
    power_cuts: int
    versions: int
    counted: int
    virtual_s: float


def run_schedule(
    seed: int, *, new_store: Callable[[], RoundStore] = MemoryRoundStore, with_trace: bool = False
) -> Report:
    """Runs one schedule on an empty round store, which must wait for nothing outside of the loop."""
    chance = random.Random(seed)
    loop = VirtualLoop(thread_seconds=lambda: chance.uniform(0, 0.01))
    plan = a_plan(chance)
    world = World(loop, chance, plan.weather)
    store = FailingRounds(world) if new_store is MemoryRoundStore else new_store()
    schedule = Schedule(world, plan, store)
    long_bytes = 0 if plan.in_threads else off_loop.LONG_BYTES
    with repeatable(world), mock.patch.object(off_loop, "LONG_BYTES", long_bytes):
        run_to_its_end(world, schedule.run())
        outcome = schedule.outcome
        if outcome is not None:
            for problem in broken_promises(outcome, schedule.sent, schedule.policies, plan.aggregation):
                world.violated(problem)
            assert schedule.watcher is not None, "the schedule has run"
            for problem in what_was_brought_wrong(outcome, schedule.watcher.brought):
                world.violated(problem)
    if outcome is not None and not world.violations:
        for problem in without_faults.differences(
            outcome, schedule.sent, plan.policy, plan.aggregation, receipt_key=RECEIPT_KEY, seed=seed
        ):
            world.violated(problem)
    return Report(
        seed=seed,
        violations=world.violations,
        trace=f"seed {seed}: {plan}\n{world.trace()}" if world.violations or with_trace else "",
        faults=world.counts,
        power_cuts=len(world.power_cuts),
        versions=outcome.status.number if outcome else 0,
        counted=outcome.status.contributions_ever if outcome else 0,
        virtual_s=loop.time(),
    )


class Schedule:
    """The actors of one schedule."""

    def __init__(self, world: World, plan: Plan, store: RoundStore) -> None:
        self._world = world
        self._plan = plan
        self._store = store
        self._blobs = FailingBlobs(world, pause=world.pause, torn=self._torn)
        self.policies = [plan.policy]
        self.outcome: Outcome | None = None
        self._participants: list[Participant] = []
        self.watcher: Watcher | None = None

    @property
    def sent(self) -> list[Sent]:
        return [sent for participant in self._participants for sent in participant.sent]

    async def run(self) -> None:
        plan, world = self._plan, self._world
        await add_task(self._blobs, plan.policy, plan.aggregation)
        slots = [self._slot(number) for number in range(plan.replicas)]
        for slot in slots:
            slot.start()
        gateway = Gateway(world, slots)
        self._participants = [
            Participant(world, gateway, f"p{number}", rounds=plan.rounds, lease_s=plan.lease_s)
            for number in range(plan.participants)
        ]
        self.watcher = Watcher(world, slots)
        world.in_background(self.watcher.run())
        playing = [world.in_background(participant.run()) for participant in self._participants]
        if plan.changes_policy:
            world.in_background(self._change_policies())
        if isinstance(self._store, FailingRounds):
            world.in_background(self._blobs.keep_on_disk())
            world.in_background(self._store.keep_on_disk())
            world.in_background(self._cut_the_power(self._store, slots))
        await asyncio.wait(playing, timeout=STORM_S)
        world.calm_down()
        await asyncio.wait(playing, timeout=ANSWERED_S)
        for participant, player in zip(self._participants, playing, strict=True):
            if not player.done():
                world.violated(f"{participant.name} waits for an answer for ever")
            else:
                player.result()
        await self._read_when_settled()
        for name in [] if world.power_cuts else self._blobs.changed:
            world.violated(f"{name} was written again, and changed")

    def _slot(self, number: int) -> Slot:
        plan = self._plan
        return Slot(
            self._world,
            number,
            stores=self._afar,
            receipt_key=RECEIPT_KEY,
            skew_s=plan.skews_s[number],
            settings={
                "participant_lease_s": plan.lease_s,
                "closing_lease_s": plan.closing_lease_s,
                "max_bytes": 1 << 20,
                "upload_memory_bytes": 1 << 20,
            },
        )

    def _afar(self, process: Process) -> tuple[Any, Any]:
        return Afar(self._store, self._world, process), Afar(self._blobs, self._world, process)

    async def _change_policies(self) -> None:
        chance = self._world.chance
        while not self._world.is_calm:
            await asyncio.sleep(chance.uniform(1, 20))
            status = await self._store.read_status(TASK_ID)
            if status is not None:
                weights = self._plan.policy.staleness_weights
                policy = a_policy(chance, self._plan.participants, staleness_weights=weights)
                self.policies.append(policy)
                self._world.say("world", f"sets {policy}")
                await self._store.set_policy(TASK_ID, policy, now=self._world.now())

    async def _cut_the_power(self, store: FailingRounds, slots: list[Slot]) -> None:
        for _ in range(self._plan.power_cuts):
            await asyncio.sleep(self._world.chance.uniform(0.5, 10))
            store.moved.clear()
            await store.moved.wait()  # for then there is something to lose
            await asyncio.sleep(self._world.chance.choice((0.0, 0.01, 0.1, 0.5, 1.5)))
            if self._world.is_calm:
                return
            self._world.say("world", "the power fails")
            self._world.power_cuts.append(self._world.loop.time())
            for slot in slots:
                if slot.process is not None:
                    slot.process.kill()
            self._blobs.fail()
            store.fail()

    async def _read_when_settled(self) -> None:
        """What somebody sent who has left since, or what arrives late, may come in while all of it is being read."""
        while not self._world.violations:
            await self._settle()
            outcome = await read_outcome(self._store, self._blobs, self.sent, power_cuts=self._world.power_cuts)
            if outcome.status == await self._store.read_status(TASK_ID):
                self.outcome = outcome
                return

    async def _settle(self) -> None:
        """Waits until nothing will happen any more."""
        over = self._world.loop.time() + SETTLED_S
        while True:
            status = await self._store.read_status(TASK_ID)
            assert status is not None, "whoever joined opened the round"
            # After the power has failed, replicas start when they do, and look at the round.
            if is_settled(status) and self._world.loop.time() > max(self._world.power_cuts, default=0.0) + RESTARTED_S:
                return
            if self._world.loop.time() > over:
                self._world.violated(f"the round waits for ever: {waiting_for(status)[1]} {status}")
                return
            await asyncio.sleep(1.0)

    def _torn(self, before: bytes, after: bytes) -> bytes:
        """What a slot may hold while it is written: some of either, all of either, nothing, or nonsense."""
        chance = self._world.chance
        cut = chance.randint(0, len(after))
        return chance.choice((before, after, after[:cut], after[:cut] + before[cut:], b"", chance.randbytes(cut)))
