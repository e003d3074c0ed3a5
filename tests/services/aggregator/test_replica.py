"""Whole rounds, over real gRPC servers and a real Redis."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from blobstore import names, records
from learning.policy import Policy
from roundstore.redis_store import RedisRoundStore
from tests.services.aggregator.room import BASE, TASK, exact_mean, octets, opened, weights_of
from tests.waiting import eventually

COUNT = 12
POLICY = Policy(min_participants=COUNT, quorum_share=None, quorum_count=COUNT, deadline_s=600, staleness_weights=(1,))


@pytest.mark.parametrize("replicas", [1, 2, 5, 16])
async def test_version_is_the_exact_mean_however_many_replicas_shared_the_work(
    store: RedisRoundStore, tmp_path: Path, replicas: int
) -> None:
    base = octets(BASE)
    async with opened(store, tmp_path, POLICY) as room, room.members(replicas) as members:
        for number in (0, 1):
            contributions = {f"p{seed}": (weights_of(100 * number + seed), seed + 1) for seed in range(COUNT)}
            order = list(contributions)
            random.Random(replicas).shuffle(order)
            receipts = await asyncio.gather(
                *(
                    random.choice(members).submit(
                        who, contributions[who][0], round=number, sample_count=contributions[who][1]
                    )
                    for who in order
                )
            )
            assert sorted(receipt.position for receipt in receipts) == list(range(COUNT))
            assert {receipt.weight for receipt in receipts} == set(range(1, COUNT + 1))
            assert {receipt.round for receipt in receipts} == {number}
            await members[0].reaches(number + 1)
            expected = exact_mean(base, contributions.values())
            for member in members:
                assert await member.version() == (number + 1, expected)
            entry = await records.read_ledger_entry(room.blobs, TASK, number + 1)
            assert {line.participant_id: line.weight for line in entry.contributions} == {
                who: weight for who, (_, weight) in contributions.items()
            }
            assert [line.position for line in entry.contributions] == list(range(COUNT))
            base = expected

        async def sums_are_gone() -> bool:
            return not await room.blobs.list(names.sums(TASK))

        await eventually(sums_are_gone)
