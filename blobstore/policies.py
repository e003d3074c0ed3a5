"""How the policy of a task was changed: numbered records, of which the newest holds.

Written before the round store is told, so that a round store that lost everything
finds the policy again. Knows no round.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import msgspec
import structlog

from blobstore import names, records
from blobstore.store import BlobExists, BlobStore
from learning.ids import TaskId
from learning.policy import Policy
from learning.refusals import Refusal

_log = structlog.stdlib.get_logger("blobstore")


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
    """The change that holds; None where there was none."""
    for name in reversed(await store.list(names.policies(task_id))):
        if change := await _read(store, name):
            return change
    return None


async def of_request(store: BlobStore, task_id: TaskId, request_id: str) -> PolicyChange | None:
    """The change that a request made."""
    for name in reversed(await store.list(names.policies(task_id))):
        change = await _read(store, name)
        if change and change.request_id == request_id:
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
        await store.settle()
        return change
    raise AssertionError("counting never ends")


async def _read(store: BlobStore, name: str) -> PolicyChange | None:
    """None where it is torn: it was written in the last moment before a loss of power, and never told to anybody."""
    data = await store.read(name)
    try:
        return msgspec.json.decode(data, type=PolicyChange)
    except (msgspec.DecodeError, ValueError, Refusal):
        _log.exception("policy.torn", blob=name)
        return None
