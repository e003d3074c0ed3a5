"""A policy is changed while its task runs, outlives a round store that lost everything, and never jams a round."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from disco.aggregator.v1 import aggregator_service_pb2 as messages
from disco.task.v1 import policy_pb2
from google.protobuf.duration_pb2 import Duration

from blobstore import policies
from learning.policy import Policy
from learning.presets import Preset, policy_of
from learning.refusals import InvalidPolicy, MalformedMessage, StoreUnavailable, TaskNotFound, WrongScheme
from learning.task import Scheme
from roundstore.redis_settings import connect
from roundstore.redis_store import RedisRoundStore
from tests.services.aggregator.room import TASK, Member, opened, weights_of
from tests.services.aggregator.troubled_store import TroubledStore, fail
from tests.waiting import eventually

POLICY = Policy(
    min_participants=1, quorum_share=None, quorum_count=3, deadline_s=600, staleness_weights=(2,), max_total_weight=20
)


async def change(member: Member, request_id: str = "", task_id: str = TASK, **fields: Any) -> Any:
    policy = policy_pb2.Policy(**{"min_participants": 1, "staleness_weights": [2], "max_total_weight": 20, **fields})
    request = messages.ChangePolicyRequest(task_id=task_id, policy=policy, request_id=request_id)
    return (await member.stub.ChangePolicy(request)).round


async def test_a_round_that_a_new_policy_makes_due_closes(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.members(2) as (first, second):
        await first.submit("a", weights_of(0))
        changed = await change(second, quorum_count=1, deadline=Duration(seconds=7))
        assert changed.policy == policy_pb2.Policy(
            min_participants=1,
            quorum_count=1,
            deadline=Duration(seconds=7),
            staleness_weights=[2],
            max_total_weight=20,
        )
        assert (await first.reaches(1)).policy == changed.policy


async def test_a_new_policy_outlives_a_redis_that_lost_everything(
    store: RedisRoundStore, tmp_path: Path, redis_url: str
) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member() as member, connect(redis_url) as redis:
        await change(member, quorum_count=2)
        await redis.flushall()
        assert (await member.round()).policy.quorum_count == 2


async def test_a_repeated_request_changes_nothing_that_came_after_it(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member() as member:
        await change(member, "r1", quorum_count=2)
        await change(member, "r2", quorum_count=4)
        assert (await change(member, "r1", quorum_count=2)).policy.quorum_count == 4
        newest = await policies.newest(room.blobs, TASK)
        assert newest is not None
        assert newest.number == 2
        with pytest.raises(MalformedMessage):
            await change(member, "r1", quorum_count=5)


async def test_of_changes_at_once_the_last_one_written_holds(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.members(2) as (first, second):
        await asyncio.gather(
            *(change([first, second][count % 2], f"r{count}", quorum_count=count) for count in range(1, 9))
        )
        newest = await policies.newest(room.blobs, TASK)
        assert newest is not None
        assert newest.number == 8
        assert (await room.status()).policy == newest.policy


async def test_a_change_that_only_the_blob_store_heard_of_is_put_in_force(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    troubled = TroubledStore(store)
    async with opened(store, tmp_path, POLICY) as room:
        async with room.member(troubled, attending=False) as doomed:
            troubled.trouble("set_policy", fail)
            with pytest.raises(StoreUnavailable):
                await change(doomed, "r1", quorum_count=2)
        assert (await room.status()).policy == POLICY
        async with room.member() as other:
            await other.round()

            async def in_force() -> bool:
                return (await room.status()).policy.quorum_count == 2

            await eventually(in_force)
            assert (await change(other, "r1", quorum_count=2)).policy.quorum_count == 2


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"quorum_count": 11}, "max_total_weight"),
        ({"min_participants": 11}, "max_total_weight"),
        ({"quorum_share": 1.5}, "quorum_share"),
        ({"deadline": Duration(seconds=-1)}, "deadline"),
        ({"staleness_weights": [1, 2]}, "staleness_weights"),
        ({"max_total_weight": 2**41}, "max_total_weight"),
        # Sound in itself, but the cap of the open round stays what it is.
        ({"min_participants": 11, "max_total_weight": 1000}, "min_participants"),
        # One contribution could take the room of the others.
        ({"max_samples": 11}, "max_samples"),
    ],
)
async def test_a_policy_that_breaks_a_rule_or_could_never_close_is_refused(
    store: RedisRoundStore, tmp_path: Path, fields: dict[str, Any], field: str
) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member() as member:
        before = await member.round()
        with pytest.raises(InvalidPolicy) as refusal:
            await change(member, **fields)
        assert refusal.value.variables["field"] == field
        assert await member.round() == before
        assert await policies.newest(room.blobs, TASK) is None


async def test_a_larger_cap_comes_first_and_more_participants_a_round_later(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member() as member:
        await change(member, quorum_count=1, max_total_weight=1000)
        await member.submit("a", weights_of(0))
        await member.reaches(1)
        changed = await change(member, min_participants=11, max_total_weight=1000)
        assert changed.contributions_needed == 11


async def test_unknown_and_decentralized_tasks_are_refused(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member() as member:
        await room.add_task(Policy(), scheme=Scheme.DECENTRALIZED, task_id="peers")
        with pytest.raises(TaskNotFound):
            await change(member, task_id="nope")
        with pytest.raises(WrongScheme):
            await change(member, task_id="peers")


async def test_preset_is_a_policy_and_numbers_beside_it_are_ones_own(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path) as room, room.member() as member:
        buffered = policy_pb2.Policy(preset=policy_pb2.Policy.PRESET_BUFFERED_ASYNCHRONOUS, quorum_count=2)
        request = messages.ChangePolicyRequest(task_id=TASK, policy=buffered)
        answer = (await member.stub.ChangePolicy(request)).round.policy
        assert answer == policy_pb2.Policy(
            min_participants=2,
            quorum_count=2,
            deadline=Duration(seconds=60),
            staleness_weights=policy_of(Preset.BUFFERED_ASYNCHRONOUS).staleness_weights,
            max_total_weight=2**20,
        )
        for who in ("a", "b"):
            assert (await member.submit(who, weights_of(ord(who)))).weight == 8
        await member.reaches(1)
        assert (await member.submit("late", weights_of(9), round=0)).weight == 6


async def test_policy_under_which_what_is_there_leaves_no_room_is_refused(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member() as member:
        await member.submit("a", weights_of(0), sample_count=3)
        with pytest.raises(InvalidPolicy) as refusal:
            await change(member, min_participants=9)
        assert refusal.value.variables["field"] == "min_participants"
        assert (await change(member, min_participants=8)).total_weight == 6
