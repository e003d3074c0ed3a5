"""How the policy of a task was changed: numbered records, of which the newest holds.

Written before the round store is told, so that a round store that lost everything
finds the policy again. Knows no round.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import msgspec

from blobstore import names, records
from blobstore.store import BlobExists, BlobStore
from learning.ids import TaskId
from learning.policy import Policy
from learning.refusals import Refusal, StoredDataDamaged


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """One change of the policy of a task."""

    number: int
    """From 1."""
    policy: Policy
    request_id: str
    change_time: float
    """Seconds since the epoch."""


async def newest(store: BlobStore, task_id: TaskId) -> PolicyChange | None:
    """The change that holds; None where there was none. Raises StoredDataDamaged."""
    found = await store.list(names.policies(task_id))
    return await _read(store, found[-1]) if found else None


async def of_request(store: BlobStore, task_id: TaskId, request_id: str) -> PolicyChange | None:
    """The change that a request made. Raises StoredDataDamaged."""
    for name in reversed(await store.list(names.policies(task_id))):
        change = await _read(store, name)
        if change.request_id == request_id:
            return change
    return None


async def add(store: BlobStore, task_id: TaskId, policy: Policy, *, request_id: str, now: float) -> PolicyChange:
    """Writes a change behind all others; of two at once, both are written, one behind the other."""
    before = await newest(store, task_id)
    for number in itertools.count(before.number + 1 if before else 1):
        change = PolicyChange(number=number, policy=policy, request_id=request_id, change_time=now)
        try:
            await store.write(names.policy(task_id, number), [records.encode(change)], replace=False)
        except BlobExists:
            continue
        return change
    raise AssertionError("counting never ends")


async def _read(store: BlobStore, name: str) -> PolicyChange:
    data = await store.read(name)
    try:
        return msgspec.json.decode(data, type=PolicyChange)
    except (msgspec.DecodeError, ValueError, Refusal) as broken:
        raise StoredDataDamaged(name=name) from broken
