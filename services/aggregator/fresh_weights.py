"""The weights of the newest versions, by their digests, as the replica that made them still has them.

Right after a version is made its weights are wanted twice at least: for the plan of the next
round, and by everybody who waits for them. Reading and digesting them each time would
take longer than making them did. Knows bytes and digests.
"""

from __future__ import annotations

from collections import OrderedDict

from blobstore.store import Buffer
from learning.ids import TaskId

FRESH_BYTES = 16 << 20


class FreshWeights:
    """One version of each task, as far as the limit on all of them goes; the longest unchanged goes first."""

    def __init__(self, limit_bytes: int = FRESH_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._kept: OrderedDict[TaskId, tuple[str, memoryview]] = OrderedDict()

    def keep(self, task_id: TaskId, digest: str, weights: Buffer) -> None:
        """`weights` have this digest, and do not change any more."""
        _, before = self._kept.pop(task_id, ("", memoryview(b"")))
        octets = memoryview(weights).cast("B")
        self._bytes += octets.nbytes - before.nbytes
        self._kept[task_id] = digest, octets
        while self._bytes > self._limit_bytes:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes

    def find(self, task_id: TaskId, digest: str) -> memoryview | None:
        kept, octets = self._kept.get(task_id, ("", None))
        return octets if kept == digest else None
