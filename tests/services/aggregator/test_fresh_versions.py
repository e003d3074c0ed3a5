"""The versions that were just made, within a limit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from learning.ids import TaskId
from learning.policy import Policy
from roundstore.memory_store import MemoryRoundStore
from services.aggregator.fresh_versions import FreshVersion, FreshVersions

A, B = TaskId("a"), TaskId("b")


def version(digest: str, weights: bytes, *, epoch: str = "e", number: int = 1) -> FreshVersion:
    return FreshVersion(epoch, number, digest, memoryview(weights))


def found(fresh: FreshVersions, task_id: TaskId, digest: str) -> bytes | None:
    octets = fresh.find(task_id, digest)
    return None if octets is None else bytes(octets)


def test_newest_version_of_a_task_is_found_by_its_digest() -> None:
    fresh = FreshVersions()
    fresh.keep(A, version("d1", b"first"))
    fresh.keep(A, version("d2", b"second"))
    assert found(fresh, A, "d1") is None
    assert found(fresh, A, "d2") == b"second"
    assert found(fresh, B, "d2") is None


@pytest.mark.parametrize(("epoch", "number", "is_base"), [("e", 1, True), ("e", 2, False), ("other", 1, False)])
async def test_base_of_a_round_is_the_version_of_its_number_made_in_its_epoch(
    epoch: str, number: int, is_base: bool
) -> None:
    policy = Policy(min_participants=1, quorum_share=None, quorum_count=1, deadline_s=60, staleness_weights=(1,))
    status = await MemoryRoundStore().open_round(A, policy, number=number, now=0.0, contributions_ever=0)
    fresh = FreshVersions()
    made = version("d", b"weights")
    fresh.keep(A, made)
    assert fresh.base_of(replace(status, epoch=epoch)) == (made if is_base else None)
    assert fresh.base_of(replace(status, epoch=epoch, task_id=B)) is None


def test_what_is_unchanged_for_longest_goes_first() -> None:
    fresh = FreshVersions(limit_bytes=10)
    fresh.keep(A, version("a", bytes(6)))
    fresh.keep(B, version("b", bytes(4)))
    fresh.keep(A, version("a2", bytes(6)))
    assert (found(fresh, A, "a2"), found(fresh, B, "b")) == (bytes(6), bytes(4))
    fresh.keep(A, version("a3", bytes(7)))
    assert (found(fresh, A, "a3"), found(fresh, B, "b")) == (bytes(7), None)


def test_weights_beyond_the_limit_are_not_kept_and_what_is_dropped_makes_room() -> None:
    fresh = FreshVersions(limit_bytes=10)
    fresh.keep(A, version("a", bytes(11)))
    assert found(fresh, A, "a") is None
    fresh.keep(A, version("a2", bytes(10)))
    assert found(fresh, A, "a2") == bytes(10)
    fresh.drop(A)
    fresh.drop(A)
    fresh.keep(B, version("b", bytes(10)))
    assert (found(fresh, A, "a2"), found(fresh, B, "b")) == (None, bytes(10))
