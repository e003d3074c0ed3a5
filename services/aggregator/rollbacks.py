"""Rolls a task back: ends its open round and publishes an older version again, once for each request.

Knows the order of things; what becomes of the round is `learning.federated`, how the version is
written `Closing`. It may die at any await:

    pin              the older version's weights are kept from here on; nothing else was changed
    start_restoring  the round is AGGREGATING, and states what its version will be; whoever closes it, this replica
                     or another one when the lease ends, writes that version
    the marker       written before the entry: whoever repeats the request finds the version by it
    the entry        the version exists

Whoever repeats a request reads the round first and then looks for the version that the
request made. So if an attempt of before is found undone, the round that was read has not moved since,
or `start_restoring` refuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from blobstore import records, retention
from blobstore.records import LedgerEntry
from blobstore.store import BlobStore
from learning.federated import NotDue, Restoring, RoundStatus, State
from learning.ids import ReplicaId, TaskId
from learning.refusals import MalformedMessage, StoreUnavailable, VersionNotFound
from roundstore.store import RoundStore
from services.aggregator.changes import Changes, either
from services.aggregator.closing import Closing
from services.aggregator.rounds import Rounds

ANSWER_S = 60.0
LOOK_AGAIN_S = 1.0
_log = structlog.stdlib.get_logger("aggregator")


class Rollbacks:
    """Rolls tasks back in the name of one replica."""

    def __init__(
        self,
        store: RoundStore,
        blobs: BlobStore,
        *,
        rounds: Rounds,
        changes: Changes,
        closing: Closing,
        replica_id: ReplicaId,
        clock: Callable[[], float],
        answer_s: float = ANSWER_S,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._rounds = rounds
        self._changes = changes
        self._closing = closing
        self._replica_id = replica_id
        self._clock = clock
        self._answer_s = answer_s

    async def roll_back(self, task_id: TaskId, version: int, *, request_id: str) -> LedgerEntry:
        """The new version's entry. Raises VersionNotFound, MalformedMessage, StoredDataDamaged.

        Raises StoreUnavailable where that takes long: send the request again.
        """
        try:
            async with asyncio.timeout(self._answer_s):
                return await self._roll_back(task_id, version, request_id)
        except TimeoutError:
            raise StoreUnavailable from None

    async def _roll_back(self, task_id: TaskId, version: int, request_id: str) -> LedgerEntry:
        while True:
            hint = self._changes.next(task_id)
            status = await self._rounds.status(task_id)
            done = await records.read_rollback(self._blobs, task_id, request_id)
            if done is not None and done.restores != version:
                raise MalformedMessage(problem="the request_id was used for another version")
            if done is not None and done.version <= status.number:
                return done
            can_begin = done is None and status.state is State.COLLECTING and not await self._rounds.is_behind(status)
            if can_begin and await self._restored(status, version, request_id):
                continue  # and reads what it came to
            await either(hint, seconds=LOOK_AGAIN_S)

    async def _restored(self, status: RoundStatus, version: int, request_id: str) -> bool:
        """Does it in this round; False where somebody else moved or moves the round."""
        if version > status.number:
            raise VersionNotFound(version=version)
        task_id = status.task_id
        await retention.pin(self._blobs, task_id, version)
        # Now, while it can still be refused: a round that is to restore what cannot be read would never end.
        await records.read_weights(self._blobs, task_id, await records.read_ledger_entry(self._blobs, task_id, version))
        lease_s, now = await self._closing.lease_s(task_id), self._clock()
        try:
            restoring = await self._store.start_restoring(
                task_id,
                epoch=status.epoch,
                number=status.number,
                closer=self._replica_id,
                until=now + lease_s,
                restoring=Restoring(version=version, request_id=request_id, asked_at=now),
            )
        except NotDue:
            return False
        self._rounds.saw(restoring)
        _log.info("task.rolled_back", task_id=task_id, number=status.number, version=version)
        return await self._closing.close(restoring)
