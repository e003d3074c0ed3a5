"""What a replica looks at before it answers. What it does about losses is shown by simulated losses of power."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from roundstore.redis_store import RedisRoundStore
from services.aggregator.rounds import Rounds
from services.aggregator.salvage import Salvage
from tests.services.aggregator.room import TASK, opened


async def test_replica_that_has_looked_believes_nothing_that_it_saw_before(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with opened(store, tmp_path) as room:
        rounds = Rounds(store, room.blobs, clock=room.clock)
        salvage = Salvage(store, room.blobs, rounds, clock=room.clock, patience_s=1.0)
        status = await rounds.status(TASK)
        # A later round, which was given up for this one by a call whose answer was lost.
        rounds.saw(replace(status, epoch="given up", number=1, revision=9))
        await salvage.meet(TASK)
        assert rounds.last_seen(TASK) == status


async def test_round_that_is_not_there_is_seen_by_nobody(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path) as room:
        rounds = Rounds(store, room.blobs, clock=room.clock)
        salvage = Salvage(store, room.blobs, rounds, clock=room.clock, patience_s=1.0)
        await rounds.status(TASK)
        await store.drop_round(TASK)
        await salvage.meet(TASK)
        assert rounds.last_seen(TASK) is None
