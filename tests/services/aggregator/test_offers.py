from __future__ import annotations

from dataclasses import replace

import pytest

from learning.federated import Admission, Contribution, RoundStatus
from learning.ids import ParticipantId, ReplicaId, TaskId
from learning.policy import Policy
from learning.refusals import DuplicateContribution
from roundstore.memory_store import MemoryRoundStore
from roundstore.store import SumPointer
from services.aggregator.offers import find_counted

TASK, WHO = TaskId("titanic"), ParticipantId("a")
POLICY = Policy(min_participants=1, quorum_share=None, quorum_count=1, deadline_s=600, staleness_weights=(4, 2, 1))


async def a_store_with(*admitted: tuple[str, int]) -> tuple[MemoryRoundStore, RoundStatus]:
    """A store in whose rounds 0, 1, … the participant was admitted with (digest, base round); the last one is open."""
    store = MemoryRoundStore()
    status = await store.open_round(TASK, POLICY, number=0, now=1.0)
    for digest, base_round in admitted:
        if status.contributions:
            epoch, number = status.epoch, status.number
            await store.start_closing(TASK, epoch=epoch, number=number, closer=ReplicaId("r"), until=9.0, now=1.0)
            status = await store.finish_closing(TASK, epoch=epoch, number=number)
        _, status = await store.commit_group(
            TASK,
            epoch=status.epoch,
            number=status.number,
            pointer=SumPointer(ReplicaId("r"), "sums/x", "d", 1, 1),
            group=[Contribution(WHO, digest, base_round, 1)],
            now=1.0,
        )
    return store, status


async def found(store: MemoryRoundStore, status: RoundStatus, digest: str, base_round: int) -> Admission | None:
    return await find_counted(store, status, participant_id=WHO, digest=digest, base_round=base_round)


async def test_contribution_is_found_in_whichever_round_it_was_counted() -> None:
    store, status = await a_store_with(("x", 0), ("y", 0), ("z", 2))
    for digest, base_round, number in (("x", 0, 0), ("y", 0, 1), ("z", 2, 2)):
        admission = await found(store, status, digest, base_round)
        assert admission is not None
        assert admission.round == number


async def test_same_weights_from_another_round_are_another_contribution() -> None:
    store, status = await a_store_with(("w", 0), ("x", 0))
    for seen in (status, replace(status, number=2)):
        assert await found(store, seen, "x", 1) is None
        assert await found(store, seen, "x", 0) is not None


async def test_other_weights_are_refused_in_the_round_that_collects_only() -> None:
    store, status = await a_store_with(("x", 0), ("y", 1))
    with pytest.raises(DuplicateContribution):
        await found(store, status, "z", 1)
    aggregating = await store.start_closing(
        TASK, epoch=status.epoch, number=1, closer=ReplicaId("r"), until=9.0, now=1.0
    )
    assert await found(store, aggregating, "z", 1) is None  # it would be judged in the next round
