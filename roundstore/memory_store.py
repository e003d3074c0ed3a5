"""Rounds in memory: `learning.federated.step` and dictionaries, the specification that can be run.

For tests and for a server of one process. Its clock is what it is told; nothing in it ever ends by itself.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from learning.federated import (
    Admission,
    ClosingStarted,
    Contribution,
    Event,
    FederatedRound,
    GroupContributed,
    Joined,
    LeasesChecked,
    Left,
    NotDue,
    PolicyChanged,
    Restoring,
    RestoringStarted,
    RoundMoved,
    RoundStatus,
    State,
    VersionPublished,
    step,
)
from learning.ids import ParticipantId, ReplicaId, TaskId
from learning.losses import without_contributions, without_version
from learning.policy import Policy
from learning.refusals import MalformedMessage
from roundstore.store import NORMS_KEPT, REFUSALS_KEPT, ClosingRound, Hint, NotedRefusal, SumPointer, fresh_epoch


@dataclass(slots=True)
class _Kept:
    """All that is known of one task."""

    round: FederatedRound
    sums: dict[ReplicaId, SumPointer] = field(default_factory=dict)
    admissions: dict[tuple[int, ParticipantId], Admission] = field(default_factory=dict)
    """Of every round, closed ones too."""
    closed: dict[int, tuple[FederatedRound, dict[ReplicaId, SumPointer]]] = field(default_factory=dict)
    """Every round as it was when it was closed."""
    lost: dict[int, list[Admission]] = field(default_factory=dict)


class MemoryRoundStore:
    """Keeps rounds for one event loop."""

    def __init__(self, new_epoch: Callable[[], str] = fresh_epoch) -> None:
        self._new_epoch = new_epoch
        self._tasks: dict[TaskId, _Kept] = {}
        self._metadata: dict[tuple[TaskId, str], dict[int, dict[ParticipantId, str]]] = {}
        self._norms: dict[TaskId, list[float]] = defaultdict(list)
        self._refusals: dict[TaskId, list[NotedRefusal]] = defaultdict(list)
        self._refusals_ever: Counter[TaskId] = Counter()
        self._watchers: set[asyncio.Queue[Hint]] = set()

    async def open_round(
        self, task_id: TaskId, policy: Policy, *, number: int, now: float, contributions_ever: int = 0
    ) -> RoundStatus:
        if task_id not in self._tasks:
            opened = FederatedRound(
                task_id=task_id,
                epoch=self._new_epoch(),
                policy=policy,
                weight_cap=policy.max_total_weight,
                number=number,
                contributions_ever=contributions_ever,
            )
            self._tasks[task_id] = _Kept(opened)
            self._hint(task_id)
        return self._tasks[task_id].round.status

    async def read_status(self, task_id: TaskId) -> RoundStatus | None:
        kept = self._tasks.get(task_id)
        return kept.round.status if kept else None

    async def list_open_tasks(self) -> list[TaskId]:
        return sorted(self._tasks)

    async def join(
        self,
        task_id: TaskId,
        participant_ids: Sequence[ParticipantId],
        *,
        lease_until: float,
        now: float,
        connection: str = "",
    ) -> RoundStatus:
        return self._step(task_id, Joined(tuple(participant_ids), lease_until, connection), now)

    async def leave(
        self, task_id: TaskId, participant_id: ParticipantId, *, now: float, connection: str = ""
    ) -> RoundStatus:
        return self._step(task_id, Left(participant_id, connection), now)

    async def expire_leases(self, task_id: TaskId, *, now: float) -> RoundStatus:
        return self._step(task_id, LeasesChecked(), now)

    async def find_admission(
        self, task_id: TaskId, participant_id: ParticipantId, *, rounds: Sequence[int]
    ) -> list[Admission]:
        kept = self._tasks.get(task_id)
        found = [kept.admissions.get((number, participant_id)) for number in rounds] if kept else []
        return [admission for admission in found if admission is not None]

    async def commit_group(
        self,
        task_id: TaskId,
        *,
        epoch: str,
        number: int,
        pointer: SumPointer,
        group: Sequence[Contribution],
        now: float,
    ) -> tuple[list[Admission], RoundStatus]:
        kept = self._known(task_id, epoch)
        status = self._step(task_id, GroupContributed(number, tuple(group), pointer.replica_id), now)
        kept.sums[pointer.replica_id] = pointer
        admitted = [kept.round.admissions[member.participant_id] for member in group]
        self._norms[task_id] = [*(member.norm for member in reversed(group) if member.norm), *self._norms[task_id]]
        del self._norms[task_id][NORMS_KEPT:]
        kept.admissions.update({(number, admission.participant_id): admission for admission in admitted})
        return admitted, status

    async def start_closing(
        self, task_id: TaskId, *, epoch: str, number: int, closer: ReplicaId, until: float, now: float
    ) -> ClosingRound:
        try:
            self._known(task_id, epoch)
        except RoundMoved:
            raise NotDue from None
        self._step(task_id, ClosingStarted(number, closer, until, is_judged=True), now)
        return await self.read_closing(task_id, epoch=epoch, number=number)

    async def start_restoring(
        self, task_id: TaskId, *, epoch: str, number: int, closer: ReplicaId, until: float, restoring: Restoring
    ) -> RoundStatus:
        try:
            self._known(task_id, epoch)
        except RoundMoved:
            raise NotDue from None
        return self._step(task_id, RestoringStarted(number, closer, until, restoring), restoring.asked_at)

    async def read_closing(
        self, task_id: TaskId, *, epoch: str, number: int, in_any_state: bool = False
    ) -> ClosingRound:
        kept = self._known(task_id, epoch)
        if kept.round.number != number or not (in_any_state or kept.round.state is State.AGGREGATING):
            raise RoundMoved
        return ClosingRound(
            status=kept.round.status,
            admissions=tuple(sorted(kept.round.admissions.values(), key=lambda admission: admission.position)),
            sums=tuple(kept.sums[replica_id] for replica_id in sorted(kept.sums)),
            lost=tuple(kept.lost.get(number, ())),
        )

    async def finish_closing(
        self,
        task_id: TaskId,
        *,
        epoch: str,
        number: int,
        contributions: int | None = None,
        contributions_ever: int | None = None,
    ) -> RoundStatus:
        kept = self._known(task_id, epoch)
        before = kept.round
        status = self._step(task_id, VersionPublished(number, contributions, contributions_ever), now=0.0)
        kept.closed[number] = before, kept.sums
        kept.sums = {}
        return status

    async def lose_contributions(
        self,
        task_id: TaskId,
        *,
        epoch: str,
        number: int,
        revision: int,
        participant_ids: Sequence[ParticipantId],
        sums: Mapping[ReplicaId, SumPointer | None],
    ) -> RoundStatus:
        kept = self._known(task_id, epoch)
        if (kept.round.number, kept.round.revision) != (number, revision):
            raise RoundMoved
        admissions = kept.round.admissions
        kept.round = without_contributions(kept.round, participant_ids, epoch=self._new_epoch())
        for who in participant_ids:
            kept.lost.setdefault(number, []).append(admissions[who])
            del kept.admissions[number, who]
        for replica_id, pointer in sums.items():
            del kept.sums[replica_id]
            if pointer is not None:
                kept.sums[replica_id] = pointer
        self._hint(task_id)
        return kept.round.status

    async def lose_version(self, task_id: TaskId, *, epoch: str, number: int) -> RoundStatus:
        kept = self._known(task_id, epoch)
        if kept.round.number != number:
            raise RoundMoved
        lost = sorted(kept.round.admissions.values(), key=lambda admission: admission.position)
        before, sums = kept.closed.pop(number - 1, (None, {}))
        kept.round = without_version(kept.round, before, epoch=self._new_epoch())
        kept.sums = sums
        kept.lost.setdefault(number, []).extend(lost)
        for admission in lost:
            del kept.admissions[number, admission.participant_id]
        self._hint(task_id)
        return kept.round.status

    async def set_policy(self, task_id: TaskId, policy: Policy, *, now: float) -> RoundStatus:
        return self._step(task_id, PolicyChanged(policy), now)

    async def drop_round(self, task_id: TaskId) -> None:
        self._norms.pop(task_id, None)
        self._refusals.pop(task_id, None)
        if self._tasks.pop(task_id, None) is not None:
            self._hint(task_id)

    async def read_norms(self, task_id: TaskId) -> list[float]:
        return list(self._norms[task_id])

    async def note_refusals(self, task_id: TaskId, refusals: Sequence[NotedRefusal]) -> None:
        kept = self._refusals[task_id]
        kept.extend(refusals)
        self._refusals_ever[task_id] += len(refusals)
        del kept[:-REFUSALS_KEPT]

    async def list_refusals(self, task_id: TaskId, *, limit: int, before: str = "") -> tuple[list[NotedRefusal], str]:
        if before and not re.fullmatch("[0-9]{1,19}", before):
            raise MalformedMessage(problem="that is no page token of a list of refusals")
        kept, ever = self._refusals[task_id], self._refusals_ever[task_id]
        # A token is how many there had ever been when the last one of a page was noted.
        end = len(kept) if not before else max(0, int(before) - 1 - (ever - len(kept)))
        start = max(0, end - limit)
        return kept[start:end][::-1], str(ever - len(kept) + start + 1) if start else ""

    async def put_metadata(
        self, task_id: TaskId, participant_id: ParticipantId, *, round: int, key: str, value: str
    ) -> None:
        self._metadata.setdefault((task_id, key), {}).setdefault(round, {})[participant_id] = value

    async def get_metadata(self, task_id: TaskId, *, round: int, key: str) -> tuple[int, Mapping[ParticipantId, str]]:
        rounds = self._metadata.get((task_id, key), {})
        newest = max((number for number in rounds if number <= round), default=None)
        return (newest, dict(rounds[newest])) if newest is not None else (0, {})

    async def watch(self) -> AsyncIterator[Hint]:
        hints: asyncio.Queue[Hint] = asyncio.Queue()
        self._watchers.add(hints)
        try:
            for task_id in await self.list_open_tasks():
                yield Hint(task_id, None)
            while True:
                yield await hints.get()
        finally:
            self._watchers.remove(hints)

    def _known(self, task_id: TaskId, epoch: str) -> _Kept:
        kept = self._tasks.get(task_id)
        if kept is None or kept.round.epoch != epoch:
            raise RoundMoved
        return kept

    def _step(self, task_id: TaskId, event: Event, now: float) -> RoundStatus:
        kept = self._tasks.get(task_id)
        if kept is None:
            raise RoundMoved
        before = kept.round.status
        kept.round = step(kept.round, event, now)
        after = kept.round.status
        if replace(after, revision=before.revision) != before:  # a lease that is longer now is nobody's news
            self._hint(task_id)
        return after

    def _hint(self, task_id: TaskId) -> None:
        kept = self._tasks.get(task_id)
        seen_at = (kept.round.status.epoch, kept.round.status.revision) if kept else None
        for hints in self._watchers:
            hints.put_nowait(Hint(task_id, seen_at))
