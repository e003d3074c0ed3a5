"""A task that is deleted while it runs: its participants are refused by name, and nothing of its round is left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from blobstore import names, task_updates
from learning.policy import Policy
from learning.refusals import TaskNotFound
from roundstore.redis_store import RedisRoundStore
from services.aggregator.rounds import CONFIRMED_S
from tests.services.aggregator.room import TASK, opened, weights_of
from tests.waiting import eventually

A, B = weights_of(0), weights_of(1)
NEVER = Policy(min_participants=9, deadline_s=600)


async def test_participants_of_a_deleted_task_are_refused_by_name_at_every_replica(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    # What should happen: TASK_NOT_FOUND for every call, a watcher's stream, too; the round is gone from Redis.
    # What should not happen: a later call opens the round again.
    async with opened(store, tmp_path, NEVER) as room, room.members(2) as (first, second):
        await first.join("a")
        await second.join("b")
        await first.submit("a", A)
        await task_updates.delete(room.blobs, TASK, request_id="", now=1.0)
        room.clock.ahead += CONFIRMED_S
        for member in (first, second):
            with pytest.raises(TaskNotFound):
                await member.submit("b", B)
            with pytest.raises(TaskNotFound):
                await member.join("b")
            with pytest.raises(TaskNotFound):
                await member.round()
        await eventually(lambda: _is_gone(store))
        assert await store.list_open_tasks() == []
        with pytest.raises(TaskNotFound):
            await second.join("late")
        assert await _is_gone(store)


async def test_a_record_that_is_only_missing_costs_nothing_that_was_acknowledged(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    # What should happen: while the volume is away, calls are refused; when it is back, the contribution is still there.
    async with opened(store, tmp_path, NEVER) as room, room.member() as member:
        await member.join("a")
        receipt = await member.submit("a", A)
        record = tmp_path.joinpath(*names.task_record(TASK).split("/"))
        away = tmp_path / "away"
        shutil.move(record, away)
        room.clock.ahead += CONFIRMED_S
        with pytest.raises(TaskNotFound):
            await member.join("b")
        with pytest.raises(TaskNotFound):  # what the coordinator asks before each look
            await member.replica._coordinator._upkeep.ended(TASK)
        shutil.move(away, record)
        assert (await store.read_status(TASK)) is not None
        assert await member.submit("a", A) == receipt
        assert (await member.round()).contributions == 1


async def _is_gone(store: RedisRoundStore) -> bool:
    return await store.read_status(TASK) is None
