"""The weights that were just made, within a limit."""

from __future__ import annotations

import numpy as np

from learning.ids import TaskId
from services.aggregator.fresh_weights import FreshWeights

A, B = TaskId("a"), TaskId("b")


def found(fresh: FreshWeights, task_id: TaskId, digest: str) -> bytes | None:
    octets = fresh.find(task_id, digest)
    return None if octets is None else bytes(octets)


def test_the_newest_version_of_a_task_is_found_by_its_digest() -> None:
    fresh = FreshWeights()
    fresh.keep(A, "d1", b"first")
    fresh.keep(A, "d2", np.array([1, 2], "<f4").data)
    assert found(fresh, A, "d1") is None
    assert found(fresh, A, "d2") == np.array([1, 2], "<f4").tobytes()
    assert found(fresh, B, "d2") is None


def test_what_is_unchanged_for_longest_goes_first() -> None:
    fresh = FreshWeights(limit_bytes=10)
    fresh.keep(A, "a", bytes(6))
    fresh.keep(B, "b", bytes(4))
    fresh.keep(A, "a2", bytes(6))
    assert (found(fresh, A, "a2"), found(fresh, B, "b")) == (bytes(6), bytes(4))
    fresh.keep(A, "a3", bytes(7))
    assert (found(fresh, A, "a3"), found(fresh, B, "b")) == (bytes(7), None)


def test_weights_beyond_the_limit_are_not_kept() -> None:
    fresh = FreshWeights(limit_bytes=10)
    fresh.keep(A, "a", bytes(11))
    assert found(fresh, A, "a") is None
    fresh.keep(A, "a2", bytes(10))
    assert found(fresh, A, "a2") == bytes(10)
