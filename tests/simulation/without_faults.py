"""The same contributions once more: one after the other, in another order, to one replica on a fine day."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from blobstore import records
from blobstore.records import LedgerEntry
from learning.aggregation import Aggregation
from learning.ids import ParticipantId
from learning.policy import Policy
from roundstore.memory_store import MemoryRoundStore
from services.aggregator.receipt_key import ReceiptKey
from tests.simulation.faults import Afar
from tests.simulation.participants import Gateway, Participant, Sent
from tests.simulation.processes import Process, Slot
from tests.simulation.promises import Outcome, RememberingBlobs
from tests.simulation.repeatable import repeatable, run_to_its_end
from tests.simulation.small_task import TASK_ID, add_task
from tests.simulation.virtual_loop import VirtualLoop
from tests.simulation.world import EPOCH_S, World

FOR_EVER_S = 1e6
CLOSED_WITHIN_S = 60.0


def differences(
    outcome: Outcome,
    sent: Sequence[Sent],
    policy: Policy,
    aggregation: Aggregation | None,
    *,
    receipt_key: ReceiptKey,
    seed: int,
) -> list[str]:
    """A sentence for each version that comes out otherwise, and for whatever else goes wrong then."""
    if len(outcome.entries) == 1:
        return []
    again = Again(outcome.entries, sent, policy, aggregation, receipt_key=receipt_key, seed=seed)
    with repeatable(again.world):
        run_to_its_end(again.world, again.run())
    return [f"without faults: {problem}" for problem in again.world.violations]


class Again:
    """Rounds that close when everybody has contributed whom the ledger entry lists, and nobody else is there."""

    def __init__(
        self,
        entries: Sequence[LedgerEntry],
        sent: Sequence[Sent],
        policy: Policy,
        aggregation: Aggregation | None,
        *,
        receipt_key: ReceiptKey,
        seed: int,
    ) -> None:
        self.world = World(VirtualLoop(), random.Random(seed), {}, is_calm=True)
        self._entries = entries
        self._caps = [entry.weight_cap for entry in entries[1:]]
        self._known = {(each.participant, each.digest, each.base_round): each for each in sent}
        self._aggregation = aggregation
        self._policy = replace(policy, min_participants=1, quorum_share=1.0, quorum_count=None, deadline_s=FOR_EVER_S)
        self._blobs = RememberingBlobs(pause=self.world.pause)
        self._store = MemoryRoundStore()
        self._slot = Slot(
            self.world,
            0,
            stores=self._afar,
            receipt_key=receipt_key,
            skew_s=0.0,
            settings={"participant_lease_s": FOR_EVER_S, "max_bytes": 1 << 20, "upload_memory_bytes": 1 << 20},
        )

    async def run(self) -> None:
        first = replace(self._policy, max_total_weight=self._caps[0])
        await add_task(self._blobs, first, self._aggregation)
        await self._store.open_round(TASK_ID, first, number=0, now=self.world.now())
        self._slot.start()
        for entry in self._entries[1:]:
            await self._make(entry)
            made = await records.read_ledger_entry(self._blobs, TASK_ID, entry.version)
            if made.digest != entry.digest:
                self.world.violated(f"version {entry.version} is another one")
                return

    async def _make(self, entry: LedgerEntry) -> None:
        lines = list(entry.contributions)
        self.world.chance.shuffle(lines)
        everybody = [ParticipantId(line.participant_id) for line in lines]
        await self._store.join(TASK_ID, everybody, lease_until=EPOCH_S + FOR_EVER_S, now=self.world.now())
        # The cap holds from the next round on, so it must be known in this one.
        cap = (self._caps[entry.version :] or self._caps[-1:])[0]
        await self._store.set_policy(TASK_ID, replace(self._policy, max_total_weight=cap), now=self.world.now())
        sender = Participant(self.world, Gateway(self.world, [self._slot]), "again", rounds=0, lease_s=FOR_EVER_S)
        for line in lines:
            sent = self._known[line.participant_id, line.digest, line.base_round]
            # What counted of its samples hung on the policy of that moment.
            late = self._policy.staleness_weights[entry.version - 1 - line.base_round]
            await sender.submit(replace(sent, sample_count=line.weight // late))
        async with asyncio.timeout(CLOSED_WITHIN_S):
            while (status := await self._store.read_status(TASK_ID)) is not None and status.number < entry.version:
                await asyncio.sleep(0.1)
        for participant in everybody:
            await self._store.leave(TASK_ID, participant, now=self.world.now())

    def _afar(self, process: Process) -> tuple[Any, Any]:
        return Afar(self._store, self.world, process), Afar(self._blobs, self.world, process)
