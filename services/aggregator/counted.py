"""Whether a contribution is counted already, in the round that is open or in one that was closed.

The round store knows, unless it has lost its newest writes or was wiped: so what it does not know of a late
contribution is looked up in the ledger, whose entries outlive it. Knows no sums.

Contributions to the round that collects are guarded by the script that admits them: it tells a repeated one from a
new one, too. Looking first saves what admitting in vain would cost (a sum that has to be begun anew), and is worth it
only where there is reason to believe in a repetition: `guarded` look-ups ask the store for nobody but participants
that this replica has met in the round.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from blobstore import records, whole
from blobstore.store import BlobStore
from learning.federated import Admission, RoundStatus, State
from learning.ids import ParticipantId, TaskId
from learning.policy import MAX_STALENESS
from learning.refusals import DuplicateContribution
from roundstore.store import RoundStore
from rpc.off_loop import off_loop

MAX_CACHED_LINES = 1 << 18
"""Of all entries together: some 100 MiB at worst."""
MAX_OPEN_ROUNDS = 4096
_LINE_BYTES = 256

_Lines = Mapping[tuple[str, str, int], Admission]


class Counted:
    """What is counted of all tasks. Entries are read once, and only where contributions come late."""

    def __init__(self, store: RoundStore, blobs: BlobStore) -> None:
        self._store = store
        self._blobs = blobs
        self._cached: OrderedDict[tuple[TaskId, str, int], _Lines] = OrderedDict()
        self._lines = 0
        self._met: OrderedDict[TaskId, tuple[tuple[str, int], set[ParticipantId]]] = OrderedDict()

    def met(self, status: RoundStatus, participant_ids: Iterable[ParticipantId]) -> None:
        """These were admitted to this round, by this replica or, as it turned out, by another one."""
        this = status.epoch, status.number
        before, met = self._met.get(status.task_id, (this, set[ParticipantId]()))
        if before != this:
            met = set()
        met.update(participant_ids)
        self._met[status.task_id] = this, met
        self._met.move_to_end(status.task_id)
        if len(self._met) > MAX_OPEN_ROUNDS:
            self._met.popitem(last=False)

    async def find(
        self,
        status: RoundStatus,
        *,
        participant_id: ParticipantId,
        digest: str,
        base_round: int,
        guarded: bool = False,
    ) -> Admission | None:
        """The admission of these very weights, from this very round, up to the round of `status`.

        Raises DuplicateContribution where other weights of this participant are in the round that collects,
        StoredDataDamaged where an entry cannot be read.
        """
        if guarded and base_round == status.number and status.state is State.COLLECTING:
            this = status.epoch, status.number
            known, met = self._met.get(status.task_id, (this, set[ParticipantId]()))
            if known != this or participant_id not in met:
                return None
        last = min(status.number, base_round + MAX_STALENESS)
        rounds = range(base_round, last + 1)
        for admission in await self._store.find_admission(status.task_id, participant_id, rounds=rounds):
            if admission.digest == digest and admission.base_round == base_round:
                return admission
            if admission.digest != digest and admission.round == status.number and status.state is State.COLLECTING:
                raise DuplicateContribution(participant_id=participant_id, round=status.number)
        for number in rounds:
            if number < status.number:
                lines = await self._of_closed_round(status, number)
            elif status.state is State.AGGREGATING:
                lines = await self._of_round_behind(status)
            else:
                continue  # nothing is admitted to a round that collects and is behind, and nobody refused by it
            if (found := lines.get((participant_id, digest, base_round))) is not None:
                return found
        return None

    async def _of_round_behind(self, status: RoundStatus) -> _Lines:
        """Where the version that is being made exists already: the store has lost its newest writes, and the round will
        be over without another look at who is in it. What is in that version may be in no admission any more."""
        number = status.number + 1
        if not await whole.is_whole(self._blobs, status.task_id, number):
            return {}  # it does not exist yet, or will be made once more
        entry = await records.read_ledger_entry(self._blobs, status.task_id, number)
        return await off_loop(_LINE_BYTES * len(entry.contributions), _admissions, entry, status.number)

    async def _of_closed_round(self, status: RoundStatus, number: int) -> _Lines:
        # A version that was lost may be made of others when it is made again: under another epoch.
        key = status.task_id, status.epoch, number
        if key in self._cached:
            self._cached.move_to_end(key)
            return self._cached[key]
        entry = await records.read_ledger_entry(self._blobs, status.task_id, number + 1)
        lines = await off_loop(_LINE_BYTES * len(entry.contributions), _admissions, entry, number)
        self._lines += len(lines) - len(self._cached.get(key, ()))  # somebody else may have read it meanwhile
        self._cached[key] = lines
        while self._lines > MAX_CACHED_LINES and len(self._cached) > 1:
            self._lines -= len(self._cached.popitem(last=False)[1])
        return lines


def _admissions(entry: records.LedgerEntry, number: int) -> _Lines:
    return {
        (line.participant_id, line.digest, line.base_round): Admission(
            participant_id=ParticipantId(line.participant_id),
            digest=line.digest,
            base_round=line.base_round,
            weight=line.weight,
            round=number,
            position=line.position,
        )
        for line in entry.contributions
    }
