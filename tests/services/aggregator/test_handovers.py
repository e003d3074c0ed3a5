"""Weights that come in one message or change hands in files: judged, counted and answered as those of a stream are."""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from disco.aggregator.v1 import aggregator_service_pb2 as messages
from disco.aggregator.v1.handover_pb2 import HandedOver
from disco.aggregator.v1.round_pb2 import Receipt

from learning.policy import Policy
from learning.refusals import (
    DuplicateContribution,
    InvalidId,
    InvalidWeights,
    MalformedMessage,
    NotHandedOver,
    RoundAhead,
    TaskNotFound,
    WeightsNotFinite,
)
from roundstore.redis_store import RedisRoundStore
from rpc.handover import Handover, opened
from services.aggregator import arrivals, servicer
from tests.services.aggregator import room as rooms
from tests.services.aggregator.room import BASE, TASK, Member, exact_mean, octets, weights_of
from tests.waiting import eventually

A, B, C = weights_of(0), weights_of(1), weights_of(2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "handover"
    path.mkdir()
    return path


@pytest.fixture
async def caller(folder: Path) -> AsyncIterator[Handover]:
    with opened(folder) as handover:
        assert handover is not None
        yield handover


async def told(member: Member, participant: str = "a", **fields: Any) -> Receipt:
    request = messages.HandOverContributionRequest(
        **{"task_id": TASK, "participant_id": participant, "round": 0, **fields}
    )
    return (await member.stub.HandOverContribution(request)).receipt  # type: ignore[no-any-return]


async def handed_over(member: Member, caller: Handover, weights: bytes, participant: str = "a", **more: Any) -> Receipt:
    room = caller.room(len(weights))
    assert room is not None
    return await told(member, participant, handed_over=caller.filled(room, weights), **more)


async def test_three_ways_lead_to_one_version(
    store: RedisRoundStore, tmp_path: Path, folder: Path, caller: Handover
) -> None:
    with opened(folder) as own:
        async with rooms.opened(store, tmp_path / "blobs") as room, room.member(handover=own) as member:
            await member.submit("a", A)
            await told(member, "b", octets=B, sample_count=5)
            receipt = await handed_over(member, caller, C, "c", sample_count=2)
            assert (receipt.sha256, receipt.weight) == (hashlib.sha256(C).digest(), 2)
            await member.reaches(1)
            assert await member.version() == (1, exact_mean(octets(BASE), [(A, 1), (B, 5), (C, 2)]))


async def test_same_weights_get_the_same_receipt_whichever_way_they_come(
    store: RedisRoundStore, tmp_path: Path, folder: Path, caller: Handover
) -> None:
    with opened(folder) as own:
        async with rooms.opened(store, tmp_path / "blobs") as room, room.member(handover=own) as member:
            receipt = await handed_over(member, caller, A)
            assert await member.submit("a", A) == receipt
            assert await told(member, octets=A) == receipt
            assert await handed_over(member, caller, A) == receipt
            assert (await room.status()).contributions == 1
            with pytest.raises(DuplicateContribution):
                await told(member, octets=B)


async def test_store_is_not_asked_about_new_contributions_and_a_repetition_is_found_wherever_it_comes(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    find = store.find_admission

    async def recorded(task_id: Any, participant_id: Any, *, rounds: Any) -> Any:
        asked.append(participant_id)
        return await find(task_id, participant_id, rounds=rounds)

    monkeypatch.setattr(store, "find_admission", recorded)
    async with rooms.opened(store, tmp_path) as room, room.member() as member, room.member() as other:
        receipt = await told(member, "a", octets=A)
        await told(member, "b", octets=B)
        assert asked == []
        assert await told(other, "a", octets=A) == receipt  # by the script that admits
        with pytest.raises(DuplicateContribution):
            await told(other, "b", octets=A)
        assert asked == []
        assert await told(other, "a", octets=A) == receipt == await told(member, "a", octets=A)
        with pytest.raises(DuplicateContribution):
            await told(member, "b", octets=A)
        assert asked == ["a", "a", "b", "b"]  # what refuses is read again first
        assert (await room.status()).contributions == 2
        await told(other, "c", octets=C)
        await member.reaches(1)
        assert await member.version() == (1, exact_mean(octets(BASE), [(A, 1), (B, 1), (C, 1)]))
        assert await told(other, "a", octets=A) == receipt  # late, and counted already


async def test_file_that_cannot_be_read_is_no_refused_contribution(store: RedisRoundStore, tmp_path: Path) -> None:
    """What should happen: the caller is told to stream. What should not: a note, or anything in the round."""
    nowhere = HandedOver(name=f"{'0' * 32}.{'1' * 32}", size=len(A), xxh3=bytes(16))
    async with rooms.opened(store, tmp_path) as room, room.member() as member:
        with pytest.raises(NotHandedOver):
            await told(member, handed_over=nowhere)
        assert (await member.round()).contributions == 0
        listed = await member.stub.ListRefusals(messages.ListRefusalsRequest(task_id=TASK))
        assert not listed.refusals
        await member.submit("a", A)


async def test_replica_with_another_folder_cannot_read_it(
    store: RedisRoundStore, tmp_path: Path, caller: Handover
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with opened(other) as own:
        async with rooms.opened(store, tmp_path / "blobs") as room, room.member(handover=own) as member:
            with pytest.raises(NotHandedOver):
                await handed_over(member, caller, A)


@pytest.mark.parametrize("in_file", [False, True], ids=["in the message", "in a file"])
async def test_refused_weights_are_noted_with_their_digest(
    store: RedisRoundStore, tmp_path: Path, folder: Path, caller: Handover, in_file: bool
) -> None:
    broken = octets([*BASE[:-1], math.nan])
    with opened(folder) as own:
        async with rooms.opened(store, tmp_path / "blobs") as room, room.member(handover=own) as member:
            with pytest.raises(WeightsNotFinite):
                await (handed_over(member, caller, broken) if in_file else told(member, octets=broken))
            listed = await member.stub.ListRefusals(messages.ListRefusalsRequest(task_id=TASK))
            assert [(each.reason, each.sha256) for each in listed.refusals] == [
                ("WEIGHTS_NOT_FINITE", hashlib.sha256(broken).digest())
            ]


async def test_what_does_not_fit_is_refused_before_it_is_read(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rooms.opened(store, tmp_path) as room, room.member() as member:
        for wrong in ({"octets": A[:-4]}, {"handed_over": HandedOver(name="x", size=2**63)}, {}):
            with pytest.raises(InvalidWeights):
                await told(member, **wrong)
        with pytest.raises(TaskNotFound):
            await told(member, task_id="unknown", octets=A)
        with pytest.raises(InvalidId):
            await told(member, "../a", octets=A)
        with pytest.raises(RoundAhead):
            await told(member, round=1, octets=A)
        monkeypatch.setattr(arrivals, "CHUNK_BYTES", len(A) - 1)
        with pytest.raises(MalformedMessage):
            await told(member, octets=A)


async def test_new_version_is_handed_over_to_who_takes_that(
    store: RedisRoundStore, tmp_path: Path, folder: Path, caller: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servicer, "CHUNK_BYTES", 8)
    policy = Policy(min_participants=1, quorum_share=None, quorum_count=1, deadline_s=60, staleness_weights=(1,))
    with opened(folder) as own:
        async with rooms.opened(store, tmp_path / "blobs", policy) as room, room.member(handover=own) as member:
            await member.submit("a", A)
            await member.reaches(1)
            request = messages.ReadVersionRequest(task_id=TASK, version=1, takes_handover=True)
            stream = member.stub.ReadVersion(request)
            parts = aiter(stream)
            header, given = await anext(parts), await anext(parts)
            assert given.WhichOneof("part") == "handed_over"
            weights = caller.taken(given.handed_over)
            assert hashlib.sha256(weights).digest() == header.header.sha256
            assert await member.version(1) == (1, bytes(weights))  # who does not ask for it gets chunks
            names = {path.name for path in folder.iterdir()}
            assert given.handed_over.name in names
            stream.cancel()
            # The file waits to be used again as soon as its reader is gone.
            await eventually(lambda: _is_free_again(own, len(weights)))


async def _is_free_again(own: Handover | None, size: int) -> bool:
    assert own is not None
    return own.spare_bytes >= size
