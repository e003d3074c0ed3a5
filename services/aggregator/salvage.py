"""What to do where stored bytes are gone for good: after a loss of power, or on a broken disk. The task goes on.

Knows what is lost by reading it, again and again; what becomes of the round then is
`learning.losses`, and whoever asks for it says which state of the round it read: of two that find the same
loss one acts, and none does where the round has moved.

    the base version    where it is not whole, the round goes back to the one before, which is as it was when it
                        was closed, and is closed once more: to the same bytes, if its sums are there
    contributions       a sum that is lost is taken for its newest older state that is not; what was added since is
                        lost, and the ledger entry of the round's version names it

Both are looked at when a replica meets a round for the first time, and before it answers anybody
who contributes: else it would repeat a receipt for what is lost. Contributions
are looked at again where the round cannot be closed with what is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from blobstore import names, whole
from blobstore.digests import is_lost
from blobstore.store import BlobStore
from learning.federated import Admission, RoundMoved, RoundStatus
from learning.ids import ReplicaId, TaskId
from roundstore.store import ClosingRound, RoundStore, SumPointer
from services.aggregator.exact_sums import SumDigest
from services.aggregator.rounds import Rounds

PATIENCE_S = 5.0
"""What was there, and cannot be read for so long, is gone; until then somebody may mend it."""
_log = structlog.stdlib.get_logger("aggregator")

Pointers = Mapping[ReplicaId, SumPointer | None]


class Salvage:
    """Finds what is lost of the rounds of a store, and says so to it."""

    def __init__(
        self,
        store: RoundStore,
        blobs: BlobStore,
        rounds: Rounds,
        *,
        clock: Callable[[], float],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._rounds = rounds
        self._clock = clock
        self._patience_s = patience_s
        self._looking: dict[TaskId, asyncio.Lock] = {}
        self._met: set[TaskId] = set()
        self._stuck: dict[TaskId, tuple[str, int, float]] = {}

    async def meet(self, task_id: TaskId) -> None:
        """Returns once the task's round has been looked at by this replica."""
        if task_id in self._met:
            return
        async with self._looking.setdefault(task_id, asyncio.Lock()):
            while task_id not in self._met:
                status = await self._store.read_status(task_id)
                if status is None or not await self._has_changed(status):
                    # What was seen before may be of a round that was given up, by a call whose answer was lost.
                    self._rounds.forget_seen(task_id)
                    if status is not None:
                        self._rounds.saw(status)
                    self._met.add(task_id)

    def forget(self, task_id: TaskId) -> None:
        """Looks anew: the store was gone for a while and may have lost its newest writes, or something is damaged."""
        self._met.discard(task_id)

    async def _has_changed(self, status: RoundStatus) -> bool:
        try:
            if await self._went_back(status):
                return True
            read = await self._store.read_closing(
                status.task_id, epoch=status.epoch, number=status.number, in_any_state=True
            )
            return await self._went_on_without(read)
        except RoundMoved:
            return True

    async def _went_back(self, status: RoundStatus) -> bool:
        """Whether the base version is lost, and the round was given up for the one before. Raises RoundMoved."""
        if await whole.newest_whole(self._blobs, status.task_id, status.number) == status.number:
            return False
        after = await self._store.lose_version(status.task_id, epoch=status.epoch, number=status.number)
        self._rounds.saw(after)
        _log.error(
            "version.lost", task_id=status.task_id, version=status.number, contributions_in_doubt=status.contributions
        )
        return True

    async def went_on(self, closing: ClosingRound) -> bool:
        """Whether something is lost, so that the round cannot be closed, and it goes on without that.

        False for a while: somebody may mend what is broken. Raises RoundMoved.
        """
        status = closing.status
        epoch, number, since = self._stuck.get(status.task_id, ("", 0, 0.0))
        if (epoch, number) != (status.epoch, status.number):
            self._stuck[status.task_id] = status.epoch, status.number, self._clock()
            return False
        if self._clock() < since + self._patience_s:
            return False
        return await self._went_on_without(closing) or await self._went_back(status)

    async def _went_on_without(self, read: ClosingRound) -> bool:
        status = read.status
        needs_all = (await self._rounds.task(status.task_id)).aggregation.needs_contributions
        lost, sums = await (self._lost_contributions(read) if needs_all else self._lost_of_sums(read))
        if not lost:
            return False
        after = await self._store.lose_contributions(
            status.task_id,
            epoch=status.epoch,
            number=status.number,
            revision=status.revision,
            participant_ids=[admission.participant_id for admission in lost],
            sums=sums,
        )
        self._stuck.pop(status.task_id, None)
        self._rounds.saw(after)
        _log.error(
            "contributions.lost",
            task_id=status.task_id,
            number=status.number,
            lost={admission.participant_id: admission.digest for admission in lost},
            left=after.contributions,
        )
        return True

    async def _lost_of_sums(self, read: ClosingRound) -> tuple[list[Admission], Pointers]:
        """The lost admissions, and the pointers that change."""
        of_sum: dict[str, list[Admission]] = {pointer.replica_id: [] for pointer in read.sums}
        for admission in read.admissions:
            of_sum.setdefault(admission.sum, []).append(admission)
        lost: list[Admission] = []
        sums: dict[ReplicaId, SumPointer | None] = {}
        for pointer in read.sums:
            left = await self._newest_left(pointer)
            if left is pointer:
                continue
            if len(of_sum[pointer.replica_id]) != pointer.contributions:
                # Written before admissions named their sums: nobody can tell them apart.
                return list(read.admissions), dict.fromkeys(each.replica_id for each in read.sums)
            sums[pointer.replica_id] = left
            lost += of_sum[pointer.replica_id][left.contributions if left else 0 :]
        return sorted(lost, key=lambda admission: admission.position), sums

    async def _newest_left(self, pointer: SumPointer) -> SumPointer | None:
        if not await is_lost(self._blobs, pointer.blob, pointer.digest, SumDigest):
            return pointer
        for earlier in pointer.earlier:
            if not await is_lost(self._blobs, earlier.blob, earlier.digest, SumDigest):
                return earlier
        return None

    async def _lost_contributions(self, read: ClosingRound) -> tuple[list[Admission], Pointers]:
        status, lost = read.status, []
        for admission in read.admissions:
            name = names.contribution(status.task_id, status.number, admission.digest)
            if await is_lost(self._blobs, name, admission.digest):
                lost.append(admission)
        return lost, _pointers_without(read, lost) if lost else {}


def _pointers_without(read: ClosingRound, lost: Sequence[Admission]) -> Pointers:
    """Of contributions that are kept one by one, the pointers count; nothing else hangs on them."""
    first, *others = read.sums
    count = len(read.admissions) - len(lost)
    weight = read.status.total_weight - sum(admission.weight for admission in lost)
    left = replace(first, contributions=count, total_weight=weight, earlier=()) if count else None
    return {first.replica_id: left, **dict.fromkeys(other.replica_id for other in others)}
