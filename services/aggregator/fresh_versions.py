"""The newest versions with their weights, as the replica that made them still has them.

Right after a version is made its weights are wanted twice at least: for the plan of the next
round, and by everybody who waits for them. Reading and digesting them each time would
take longer than making them did. Knows bytes, digests and numbers.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from learning.federated import RoundStatus
from learning.ids import TaskId

FRESH_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class FreshVersion:
    """A version that was written and does not change any more. `digest` is that of its weights."""

    epoch: str
    """Of the round that made it: one that is lost, and made anew of something else, is made under another one."""
    number: int
    digest: str
    weights: memoryview


class FreshVersions:
    """One version of each task, as far as the limit on all of them goes; the longest unchanged goes first."""

    def __init__(self, limit_bytes: int = FRESH_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._kept: OrderedDict[TaskId, FreshVersion] = OrderedDict()

    def keep(self, task_id: TaskId, version: FreshVersion) -> None:
        self.drop(task_id)
        self._kept[task_id] = version
        self._bytes += version.weights.nbytes
        while self._bytes > self._limit_bytes:
            self.drop(next(iter(self._kept)))

    def drop(self, task_id: TaskId) -> None:
        kept = self._kept.pop(task_id, None)
        self._bytes -= kept.weights.nbytes if kept else 0

    def find(self, task_id: TaskId, digest: str) -> memoryview | None:
        """Weights that have this digest."""
        kept = self._kept.get(task_id)
        return kept.weights if kept is not None and kept.digest == digest else None

    def base_of(self, status: RoundStatus) -> FreshVersion | None:
        """The version that this round starts from."""
        kept = self._kept.get(status.task_id)
        is_base = kept is not None and (kept.epoch, kept.number) == (status.epoch, status.number)
        return kept if is_base else None
