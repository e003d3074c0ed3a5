"""Weights that come in one message or change hands in files: judged, counted and answered as those of a stream are."""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from disco.aggregator.v1 import aggregator_service_pb2 as messages
from disco.aggregator.v1.aggregator_service_pb2 import HandOverContributionsRequest
from disco.aggregator.v1.handover_pb2 import HandedOver
from disco.aggregator.v1.round_pb2 import Receipt
from structlog.testing import capture_logs

from learning.federated import Admission
from learning.policy import Policy
from learning.refusals import (
    DiscoError,
    DuplicateContribution,
    InternalError,
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
from rpc.status import from_rich_status
from services.aggregator import arrivals, deliveries
from services.aggregator.servicer import MAX_TOGETHER
from services.aggregator.submissions import Announced, Submissions
from tests.services.aggregator import room as rooms
from tests.services.aggregator.room import BASE, TASK, Member, exact_mean, octets, weights_of
from tests.waiting import eventually

Contribution = HandOverContributionsRequest.Contribution

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


def contribution(participant: str = "a", **fields: Any) -> Contribution:
    return Contribution(**{"participant_id": participant, "round": 0, **fields})


async def outcomes(member: Member, *contributions: Contribution, task_id: str = TASK) -> list[Receipt | DiscoError]:
    request = messages.HandOverContributionsRequest(task_id=task_id, contributions=contributions)
    answer = await member.stub.HandOverContributions(request)
    assert len(answer.outcomes) == len(contributions)
    return [
        each.receipt if each.WhichOneof("outcome") == "receipt" else from_rich_status(each.refusal)
        for each in answer.outcomes
    ]


async def told(member: Member, participant: str = "a", *, task_id: str = TASK, **fields: Any) -> Receipt:
    (outcome,) = await outcomes(member, contribution(participant, **fields), task_id=task_id)
    if isinstance(outcome, DiscoError):
        raise outcome
    return outcome


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


async def test_each_of_several_has_its_own_outcome_in_their_order(
    store: RedisRoundStore, tmp_path: Path, folder: Path, caller: Handover
) -> None:
    nowhere = HandedOver(name=f"{'0' * 32}.{'1' * 32}", size=len(A), xxh3=bytes(16))
    room_of_b = caller.room(len(B))
    assert room_of_b is not None
    with opened(folder) as own:
        async with rooms.opened(store, tmp_path / "blobs") as room, room.member(handover=own) as member:
            first, unread, second, broken, stranger, third = await outcomes(
                member,
                contribution("a", octets=A),
                contribution("e", handed_over=nowhere),
                contribution("b", handed_over=caller.filled(room_of_b, B), sample_count=5),
                contribution("d", octets=octets([*BASE[:-1], math.nan])),
                contribution("../f", octets=A),
                contribution("c", octets=C),
            )
            assert isinstance(unread, NotHandedOver)
            assert isinstance(broken, WeightsNotFinite)
            assert isinstance(stranger, InvalidId)
            receipts = [each for each in (first, second, third) if isinstance(each, Receipt)]
            assert [(each.participant_id, each.sha256, each.weight) for each in receipts] == [
                ("a", hashlib.sha256(A).digest(), 1),
                ("b", hashlib.sha256(B).digest(), 5),
                ("c", hashlib.sha256(C).digest(), 1),
            ]
            assert sorted(each.position for each in receipts) == [0, 1, 2]
            await member.reaches(1)
            assert await member.version() == (1, exact_mean(octets(BASE), [(A, 1), (B, 5), (C, 1)]))


async def test_one_participant_twice_in_one_call_is_counted_once(store: RedisRoundStore, tmp_path: Path) -> None:
    async with rooms.opened(store, tmp_path) as room, room.member() as member:
        first, again, other = await outcomes(
            member, contribution(octets=A), contribution(octets=A), contribution(octets=B)
        )
        assert isinstance(first, Receipt)
        assert again == first
        assert isinstance(other, DuplicateContribution)
        status = await room.status()
        assert (status.contributions, status.total_weight) == (1, 1)


async def test_bug_with_one_contribution_is_nothing_to_the_others(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = Submissions.submit

    async def stumbling(submissions: Submissions, announced: Announced, arrival: Any) -> Admission:
        if announced.participant_id == "b":
            raise ZeroDivisionError
        return await submit(submissions, announced, arrival)

    monkeypatch.setattr(Submissions, "submit", stumbling)
    async with rooms.opened(store, tmp_path) as room, room.member() as member:
        with capture_logs() as logged:
            first, bug, third = await outcomes(
                member, contribution("a", octets=A), contribution("b", octets=B), contribution("c", octets=C)
            )
        assert isinstance(first, Receipt)
        assert isinstance(third, Receipt)
        assert isinstance(bug, InternalError)
        (line,) = [line for line in logged if line["event"] == "rpc.failed"]
        assert line["method"] == "HandOverContributions"
        assert isinstance(line["exc_info"], ZeroDivisionError)
        assert (await room.status()).contributions == 2


async def test_one_call_holds_up_to_64_contributions_and_at_least_one(store: RedisRoundStore, tmp_path: Path) -> None:
    many = [contribution(f"p{number}", octets=A) for number in range(MAX_TOGETHER + 1)]
    async with rooms.opened(store, tmp_path) as room, room.member() as member:
        for wrong in ([], many):
            with pytest.raises(MalformedMessage, match="1 to 64 contributions"):
                await outcomes(member, *wrong)
        assert (await member.round()).contributions == 0
        assert all(isinstance(each, Receipt) for each in await outcomes(member, *many[:-1]))


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
    monkeypatch.setattr(deliveries, "CHUNK_BYTES", 8)
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
