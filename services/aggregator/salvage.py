"""What to do where stored bytes are gone for good: after a loss of power, or on a broken disk. The task goes on.

Knows what is lost by reading it, twice and with time in between; what becomes of the round then is
`learning.losses`, and whoever asks for it says which epoch it read, so of two that find the same loss one acts.

    the base version    is looked at when a round is met for the first time. Where it is not whole, the round
                        goes back to the one before, which is as it was when it was closed, and is closed once more: to
                        the same bytes, if its sums are there
    contributions       are looked at where the round cannot be closed with what is there, for a while. A sum that is
                        not readable is taken for its newest older state that is; the contributions that were added
                        since are lost, and the ledger entry of the round's version names them
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from blobstore import names, whole
from blobstore.store import BlobMissing, BlobStore
from learning.federated import Admission, RoundMoved, RoundStatus
from learning.ids import ReplicaId, TaskId
from roundstore.store import ClosingRound, RoundStore, SumPointer
from services.aggregator.exact_sums import SumDigest
from services.aggregator.off_loop import off_loop
from services.aggregator.rounds import Rounds

PATIENCE_S = 5.0
"""What cannot be read for so long is gone: a store that has a bad moment is over it by then."""
LOOKS = 3
CHUNK_BYTES = 4 << 20
_log = structlog.stdlib.get_logger("aggregator")


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
        self._stuck: dict[TaskId, tuple[str, int, float]] = {}

    async def went_back(self, status: RoundStatus) -> bool:
        """Whether the round does not stand, because its base version is lost, and was given up for the one before."""
        if not status.number:
            return False
        for _ in range(LOOKS):
            if await whole.newest_whole(self._blobs, status.task_id, status.number) == status.number:
                return False
        try:
            after = await self._store.lose_version(status.task_id, epoch=status.epoch, number=status.number)
        except RoundMoved:
            return True  # and is to be read again
        self._rounds.saw(after)
        _log.error(
            "version.lost", task_id=status.task_id, version=status.number, contributions_in_doubt=status.contributions
        )
        return True

    async def went_on_without(self, closing: ClosingRound) -> bool:
        """Whether contributions are lost, so that the round cannot be closed, and it goes on without them.

        False for a while, until it is certain: somebody may mend what is broken.
        """
        status = closing.status
        epoch, number, since = self._stuck.get(status.task_id, ("", 0, 0.0))
        if (epoch, number) != (status.epoch, status.number):
            self._stuck[status.task_id] = status.epoch, status.number, self._clock()
            return False
        if self._clock() < since + self._patience_s:
            return False
        needs_all = (await self._rounds.task(status.task_id)).aggregation.needs_contributions
        lost, sums = await (self._without_contributions(closing) if needs_all else self._without_sums(closing))
        if not lost:
            return False
        del self._stuck[status.task_id]
        after = await self._store.lose_contributions(
            status.task_id,
            epoch=status.epoch,
            number=status.number,
            revision=status.revision,
            participant_ids=[admission.participant_id for admission in lost],
            sums=sums,
        )
        self._rounds.saw(after)
        _log.error(
            "contributions.lost",
            task_id=status.task_id,
            number=status.number,
            lost={admission.participant_id: admission.digest for admission in lost},
            left=after.contributions,
        )
        return True

    async def _without_sums(
        self, closing: ClosingRound
    ) -> tuple[list[Admission], Mapping[ReplicaId, SumPointer | None]]:
        """The lost admissions, and the pointers that change."""
        of_sum: dict[str, list[Admission]] = {pointer.replica_id: [] for pointer in closing.sums}
        for admission in closing.admissions:
            of_sum.setdefault(admission.sum, []).append(admission)
        if any(len(of_sum[pointer.replica_id]) != pointer.contributions for pointer in closing.sums):
            # Written before admissions named their sums: nobody can tell them apart.
            return list(closing.admissions), {pointer.replica_id: None for pointer in closing.sums}
        lost: list[Admission] = []
        sums: dict[ReplicaId, SumPointer | None] = {}
        for pointer in closing.sums:
            left = await self._newest_readable(pointer)
            if left is not pointer:
                sums[pointer.replica_id] = left
                lost += of_sum[pointer.replica_id][left.contributions if left else 0 :]
        return sorted(lost, key=lambda admission: admission.position), sums

    async def _newest_readable(self, pointer: SumPointer) -> SumPointer | None:
        if await self._has_digest(pointer.blob, pointer.digest, SumDigest):
            return pointer
        for earlier in pointer.earlier:
            if await self._has_digest(earlier.blob, earlier.digest, SumDigest):
                return replace(earlier, earlier=())
        return None

    async def _without_contributions(
        self, closing: ClosingRound
    ) -> tuple[list[Admission], Mapping[ReplicaId, SumPointer | None]]:
        status = closing.status
        lost = []
        for admission in closing.admissions:
            name = names.contribution(status.task_id, status.number, admission.digest)
            if not await self._has_digest(name, admission.digest, hashlib.sha256):
                lost.append(admission)
        return lost, _pointers_without(closing, lost) if lost else {}

    async def _has_digest(self, blob: str, digest: str, kind: Callable[[], Any]) -> bool:
        return any([await self._digest(blob, kind) == digest for _ in range(LOOKS)])

    async def _digest(self, blob: str, kind: Callable[[], Any]) -> str:
        """Empty where there is no such blob."""
        digest = kind()
        try:
            async for chunk in self._blobs.read_chunks(blob, chunk_size=CHUNK_BYTES):
                await off_loop(len(chunk), digest.update, chunk)
        except BlobMissing:
            return ""
        return str(digest.hexdigest())


def _pointers_without(closing: ClosingRound, lost: Sequence[Admission]) -> Mapping[ReplicaId, SumPointer | None]:
    """Of contributions that are kept one by one, the pointers count; nothing else hangs on them."""
    first, *others = closing.sums
    count = len(closing.admissions) - len(lost)
    weight = closing.status.total_weight - sum(admission.weight for admission in lost)
    left = replace(first, contributions=count, total_weight=weight, earlier=()) if count else None
    return {first.replica_id: left, **dict.fromkeys(other.replica_id for other in others)}
