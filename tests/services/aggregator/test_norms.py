"""The gate of norms, over real gRPC servers: refused before the sum, and never instead of a receipt."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from blobstore import names, records
from learning.norm_gate import NormGate
from learning.policy import Policy
from learning.refusals import NormTooLarge
from roundstore.redis_store import RedisRoundStore
from tests.services.aggregator.room import BASE, TASK, exact_mean, octets, opened
from tests.services.aggregator.troubled_store import Held, TroubledStore

GATE = NormGate(quantile=0.5, factor=2.0, min_history=2)


def changed(by: float) -> bytes:
    """Weights that differ from the first version by a vector of this length."""
    return octets([BASE[0] + by, *BASE[1:]])


def everybody(count: int, **more: int) -> Policy:
    return Policy(
        min_participants=1, quorum_share=None, quorum_count=count, deadline_s=600, staleness_weights=(2, 1), **more
    )


async def test_change_much_larger_than_those_before_is_refused_and_in_no_version(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with opened(store, tmp_path, everybody(4), norm_gate=GATE) as room, room.members(2) as members:
        await members[0].submit("a", changed(1.0))
        await members[0].submit("b", changed(-1.5))
        for member in members:
            with pytest.raises(NormTooLarge) as refusal:
                await member.submit("far", changed(2.25))
            assert refusal.value.variables == {"norm": "2.25", "limit": "2"}
        await members[1].submit("far", changed(2.0))
        await members[1].submit("d", changed(0.0))
        await members[0].reaches(1)
        sent = [(changed(by), 2) for by in (1.0, -1.5, 2.0, 0.0)]
        assert await members[0].version(1) == (1, exact_mean(octets(BASE), sent))
        assert await store.read_norms(TASK) == [2.0, 1.5, 1.0]


async def test_without_being_asked_nothing_is_compared(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, everybody(3)) as room, room.member() as member:
        for who, by in (("a", 1e-3), ("b", 1e-3), ("far", 100.0)):
            await member.submit(who, changed(by))
        await member.reaches(1)
        assert await store.read_norms(TASK) == []


async def test_repeated_contribution_gets_its_receipt_though_it_would_be_refused_by_now(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with opened(store, tmp_path, everybody(9), norm_gate=GATE) as room, room.members(2) as members:
        receipt = await members[0].submit("far", changed(50.0))
        for number in range(4):
            await members[0].submit(f"p{number}", changed(1.0))
        assert await members[1].submit("far", changed(50.0)) == receipt
        with pytest.raises(NormTooLarge):
            await members[1].submit("other", changed(50.0))
        assert await store.read_norms(TASK) == [1.0] * 4 + [50.0]


async def test_contribution_that_another_replica_admits_at_that_moment_gets_its_receipt(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    # What should happen:
    # 1. one replica has looked whether the contribution is counted, and measures it
    # 2. meanwhile another one admits it, and then others that make it look too far
    # 3. the first does not refuse what is counted
    troubled, held = TroubledStore(store), Held()
    async with (
        opened(store, tmp_path, everybody(9), norm_gate=GATE) as room,
        room.member(troubled) as slow,
        room.member() as fast,
    ):
        troubled.trouble("read_norms", held)
        waiting = asyncio.create_task(slow.submit("far", changed(50.0)))
        await held.reached.wait()
        receipt = await fast.submit("far", changed(50.0))
        for number in range(4):
            await fast.submit(f"p{number}", changed(1.0))
        held.release.set()
        assert await waiting == receipt


async def test_late_contribution_is_measured_from_where_it_started(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, everybody(2), norm_gate=GATE) as room, room.member() as member:
        for who in ("a", "b"):
            await member.submit(who, changed(64.0))
        await member.reaches(1)
        await member.submit("late", changed(1.0), round=0)  # 63 away from version 1
        assert (await store.read_norms(TASK))[0] == 1.0


async def test_base_that_is_no_longer_kept_is_replaced_by_the_newest(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, everybody(2), norm_gate=GATE) as room:
        async with room.member() as member:
            for who in ("a", "b"):
                await member.submit(who, changed(64.0))
            await member.reaches(1)
        entry = await records.read_ledger_entry(room.blobs, TASK, 0)
        for name in (names.weights(TASK, entry.digest), names.weights_of_version(TASK, 0, entry.digest)):
            await room.blobs.delete(name)
        async with room.member() as member:
            await member.submit("late", changed(1.0), round=0)
        assert (await store.read_norms(TASK))[0] == 63.0
