"""Old weights go while rounds go on, under several replicas; whoever is behind looks again."""

from __future__ import annotations

from pathlib import Path

import pytest
from disco.aggregator.v1 import aggregator_service_pb2 as messages

from blobstore import names, records, retention
from learning.federated import RoundMoved
from learning.policy import Policy
from learning.refusals import VersionNotFound
from roundstore.redis_store import RedisRoundStore
from services.aggregator.rounds import Rounds
from tests.services.aggregator.room import BASE, TASK, Member, Room, octets, opened, weights_of
from tests.services.aggregator.test_rollbacks import roll_back
from tests.waiting import eventually

POLICY = Policy(min_participants=1, quorum_share=None, quorum_count=1, deadline_s=600, staleness_weights=(1,))
KEPT = 3


async def play(members: list[Member], numbers: range) -> None:
    for number in numbers:
        await members[number % len(members)].submit("a", weights_of(number), round=number)
        await members[0].reaches(number + 1)


async def kept_are(room: Room, *versions: int) -> None:
    async def are_kept() -> bool:
        found = await room.blobs.list(names.all_weights(TASK))
        return sorted(names.version_of_weights(name) for name in found) == [0, *versions]

    await eventually(are_kept)


async def test_the_newest_versions_keep_their_weights_and_all_keep_their_entries(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with opened(store, tmp_path, POLICY, kept_versions=KEPT) as room, room.members(2) as members:
        await play(members, range(8))
        await kept_are(room, 6, 7, 8)
        for number in (1, 5):
            with pytest.raises(VersionNotFound) as refusal:
                await members[0].version(number)
            assert "no longer kept" in str(refusal.value)
            answer = await members[1].stub.GetVersion(messages.GetVersionRequest(task_id=TASK, version=number))
            assert (answer.version.number, answer.version.kept) == (number, False)
        assert await members[0].version(0) == (0, octets(BASE))
        assert (await members[0].version(6))[0] == 6


async def test_a_version_that_was_rolled_back_to_stays(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY, kept_versions=KEPT) as room, room.members(2) as members:
        await play(members, range(2))
        await roll_back(members[0], 1)
        await play(members, range(3, 9))
        await kept_are(room, 1, 7, 8, 9)
        with pytest.raises(VersionNotFound):
            await roll_back(members[0], 2, "r2")
        assert (await roll_back(members[0], 1, "r3")).version.number == 10


async def test_all_stay_where_all_are_to_be_kept(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY, kept_versions=0) as room, room.members(1) as members:
        await play(members, range(5))
        await kept_are(room, 1, 2, 3, 4, 5)


async def test_whoever_is_so_far_behind_that_the_base_is_gone_looks_again(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.members(1) as members:
        await play(members, range(1))
        seen = await room.status()
        await play(members, range(1, 4))
        await retention.sweep(room.blobs, TASK, oldest=4)
        with pytest.raises(RoundMoved):
            await Rounds(store, room.blobs, clock=room.clock).plan(seen)
        assert (await records.read_ledger_entry(room.blobs, TASK, 1)).version == 1
