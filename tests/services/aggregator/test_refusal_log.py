"""Refusals are kept with their reasons, over real gRPC servers, and cost nobody anything."""

from __future__ import annotations

import asyncio
import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
from disco.aggregator.v1 import aggregator_service_pb2 as messages

from learning.ids import ParticipantId
from learning.policy import Policy
from learning.refusals import (
    DigestMismatch,
    DiscoError,
    DuplicateContribution,
    InvalidId,
    InvalidWeights,
    MalformedMessage,
    Refusal,
    RoundAhead,
    RoundStale,
    StoreUnavailable,
    TaskNotFound,
    WeightsNotFinite,
    WeightsOutOfBound,
    WrongScheme,
)
from learning.task import Scheme
from roundstore.redis_store import RedisRoundStore
from roundstore.store import REFUSALS_KEPT
from services.aggregator.refusal_log import MAX_TASKS, RefusalLog
from services.aggregator.submissions import Announced
from tests.services.aggregator.room import BASE, TASK, Member, octets, opened, weights_of
from tests.services.aggregator.troubled_store import Held, TroubledStore, fail

A, B = weights_of(0), weights_of(1)
SYNCHRONOUS = Policy(min_participants=1, quorum_share=None, quorum_count=2, deadline_s=600, staleness_weights=(1,))


async def refusals(
    member: Member, size: int = 0, token: str = "", task_id: str = TASK
) -> messages.ListRefusalsResponse:
    request = messages.ListRefusalsRequest(task_id=task_id, page_size=size, page_token=token)
    return await member.stub.ListRefusals(request)  # type: ignore[no-any-return]


async def test_every_refusal_of_the_gate_is_named_counted_and_kept_with_its_reason(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with opened(store, tmp_path, SYNCHRONOUS) as room, room.members(2) as (first, second):
        await first.submit("a", A)
        wrong: list[tuple[type[DiscoError], dict[str, object], bytes]] = [
            (InvalidWeights, {}, A[:-4]),
            (WeightsNotFinite, {}, octets([math.nan, *BASE[1:]])),
            (WeightsOutOfBound, {}, octets([1e30, *BASE[1:]])),
            (RoundAhead, {"round": 9}, B),
            (DuplicateContribution, {"participant": "a"}, B),
            (DigestMismatch, {"digest": bytes(32)}, B),
        ]
        for kind, changes, weights in wrong:
            with pytest.raises(kind):
                await first.submit(**{"participant": "b", "weights": weights, **changes})  # type: ignore[arg-type]
        await first.submit("b", B)
        await first.reaches(1)
        with pytest.raises(RoundStale) as stale:
            await second.submit("late", B, round=0)
        kept = (await refusals(second)).refusals
        assert [each.reason for each in kept] == [RoundStale.reason, *(kind.reason for kind, *_ in reversed(wrong))]
        newest = kept[0]
        assert (newest.participant_id, newest.round, newest.sentence) == ("late", 0, str(stale.value))
        assert newest.sha256 == hashlib.sha256(B).digest()
        assert abs(newest.refuse_time.ToNanoseconds() / 1e9 - room.clock()) < 60
        assert [each.round for each in kept if each.reason == "ROUND_AHEAD"] == [9]
        page = await refusals(first, 5)
        assert list(page.refusals) == list(kept[:5])
        assert list((await refusals(second, 5, page.next_page_token)).refusals) == list(kept[5:])
        counted = first.replica.metrics.contributions
        for kind, *_ in wrong:
            assert counted.labels(kind.reason)._value.get() == 1


async def test_what_is_a_contribution_to_nothing_is_counted_and_kept_nowhere(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with opened(store, tmp_path) as room, room.member() as member:
        await room.add_task(Policy(), scheme=Scheme.DECENTRALIZED, task_id="peers")
        for task_id, kind in (("nope", TaskNotFound), ("peers", WrongScheme), ("../etc", InvalidId)):
            with pytest.raises(kind):
                await member.submit("a", A, task_id=task_id)
            assert member.replica.metrics.contributions.labels(kind.reason)._value.get() == 1
            with pytest.raises(kind):
                await refusals(member, task_id=task_id)
        for size, token in ((101, ""), (0, "nope")):
            with pytest.raises(MalformedMessage):
                await refusals(member, size, token)
        assert not (await refusals(member)).refusals


async def test_what_a_gateway_refused_is_kept_beside_what_was_refused_here(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with opened(store, tmp_path, SYNCHRONOUS) as room, room.member() as member:
        await room.add_task(Policy(), scheme=Scheme.DECENTRALIZED, task_id="peers")
        note: dict[str, Any] = {
            "task_id": TASK,
            "participant_id": "a",
            "round": 0,
            "reason": "INVALID_WEIGHTS",
            "sentence": "x" * 600,
        }
        await member.stub.NoteRefusal(messages.NoteRefusalRequest(**note))
        with pytest.raises(RoundAhead):
            await member.submit("a", A, round=5)
        newest, oldest = (await refusals(member)).refusals
        assert (newest.reason, oldest.reason) == ("ROUND_AHEAD", "INVALID_WEIGHTS")
        assert (oldest.participant_id, oldest.round, oldest.sentence, oldest.sha256) == ("a", 0, "x" * 512, b"")
        wrong: list[tuple[type[DiscoError], dict[str, object]]] = [
            (MalformedMessage, {"reason": "ROUND_STALE"}),  # the aggregator alone can say that
            (MalformedMessage, {"reason": "anything"}),
            (MalformedMessage, {"sha256": b"short"}),
            (InvalidId, {"participant_id": "../a"}),
            (TaskNotFound, {"task_id": "nope"}),
            (WrongScheme, {"task_id": "peers"}),
        ]
        for kind, changes in wrong:
            with pytest.raises(kind):
                await member.stub.NoteRefusal(messages.NoteRefusalRequest(**{**note, **changes}))
        assert len((await refusals(member)).refusals) == 2


async def test_store_that_cannot_note_a_refusal_costs_the_note_alone(store: RedisRoundStore, tmp_path: Path) -> None:
    troubled, held = TroubledStore(store), Held(then=fail)
    async with opened(store, tmp_path, SYNCHRONOUS) as room, room.member(troubled) as member:
        troubled.trouble("note_refusals", held)
        with pytest.raises(RoundAhead):
            await member.submit("a", A, round=5)
        await held.reached.wait()
        with pytest.raises(RoundAhead):  # nobody waits for it
            await member.submit("a", A, round=6)
        await member.submit("a", A)
        await member.submit("b", B)
        await member.reaches(1)
        held.release.set()
        assert [each.round for each in (await refusals(member)).refusals] == [6]


async def test_flood_of_refusals_is_held_within_bounds() -> None:
    written: list[int] = []

    class Slow:
        async def note_refusals(self, task_id: str, refusals: list[object]) -> None:
            written.append(len(refusals))
            await asyncio.sleep(0)
            raise StoreUnavailable

    log = RefusalLog(Slow(), clock=lambda: 0.0)  # type: ignore[arg-type]

    class Odd(Refusal):
        reason = "MALFORMED_MESSAGE"
        sentence = "{text}"

    for task in range(MAX_TASKS + 10):
        for number in range(REFUSALS_KEPT + 10):
            announced = Announced(TASK.__class__(f"t{task}"), ParticipantId("a"), number, "0" * 64, 0)
            log.note(announced, Odd(text="x" * 10_000))
    assert sum(len(noted) for noted in log._unwritten.values()) == MAX_TASKS * REFUSALS_KEPT
    assert all(len(each.sentence) == 512 for noted in log._unwritten.values() for each in noted)
    assert log._writing is not None
    await log._writing
    assert written == [REFUSALS_KEPT] * MAX_TASKS
