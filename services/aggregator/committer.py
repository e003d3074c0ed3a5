"""From a contribution that has arrived to its admission: judged, folded, committed with others, answered.

Knows the order of things; the rules are `learning.federated`'s, the numbers `OpenSum`'s.

One committer per task takes all that wait and commits them together. It may die at
any await, and so may the stores. What is then true, and why nothing is lost and
nothing is counted twice:

    judging        Nothing was changed. The sender repeats the call on another replica.
    fold           Only memory was changed, and it dies with the process. Members are folded as they come, until
                   no more are expected for a moment.
    write          Only the slot was changed that no pointer names, and may be changed yet. The sum in memory
                   is forgotten; the next group begins an empty one under a new name, in new slots.
    commit_group   The store has done all of it or nothing, or will do it yet, and nobody knows which. Again
                   the sum is forgotten. If the commit takes effect, the old name's pointer names a slot that
                   holds exactly this group and those before it; if not, one that holds those before it.
                   Neither is written again. The sender repeats the call and gets the same receipt, or is
                   admitted now.
    answering      The contribution is durable. A sender who did not hear it repeats and gets the same receipt.

Where the task's rule needs every single contribution, the collection is no sum but those
contributions (`OpenContributions`), and of the steps above these read:

    fold           Only memory was changed, and it dies with the process.
    write          Only blobs were written that no admission names, or that an admission names and that had these
                   very bytes before: their names are their digests. What is in memory is forgotten.
    commit_group   The store has done all of it or nothing, or will do it yet, and nobody knows which. Again
                   what is in memory is forgotten. If the commit takes effect, the admissions name blobs that hold
                   exactly this group; if not, nothing names them, and they are deleted with the round. None is
                   ever changed. The sender repeats the call and gets the same receipt, or is admitted now.

A client of Redis may send one commit twice. Where the first took effect, the second
finds all members admitted just as this group would have been: that, too, is a
commit of which nobody knows whether it moved the pointer, and is treated so.

A late contribution could have been counted in a round between its base and the one
that collects, by a commit whose answer was lost. The store guards the round that
collects; `_judged` asks for those before it, which change no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager

from learning.federated import (
    Admission,
    GroupConflict,
    RoundMoved,
    RoundStatus,
    State,
    contributions_needed,
    is_due,
)
from learning.ids import TaskId
from learning.refusals import DiscoError, Refusal, StoreUnavailable, WeightCapReached
from learning.weighing import weight_of
from roundstore.store import RoundStore, SumPointer
from rpc.off_loop import is_long
from services.aggregator.changes import Changes, either
from services.aggregator.collection import Collection
from services.aggregator.counted import Counted
from services.aggregator.exact_sums import PartialSum
from services.aggregator.metrics import AggregatorMetrics
from services.aggregator.norms import Norms
from services.aggregator.offers import Offered
from services.aggregator.open_sums import OpenSum
from services.aggregator.rounds import Rounds

GROUP_BYTES = 64 << 20
GROUP_MEMBERS = 256
COMMIT_S = 0.002
COMMIT_BYTES_PER_S = 1 << 30
GATHERED_TIMES = 4
"""A group that others join goes on gathering for so many times the patience that it has with the next one."""
LOOK_AGAIN_S = 1.0


class Committer:
    """Commits the contributions to one task that arrive at this replica."""

    def __init__(
        self,
        task_id: TaskId,
        *,
        store: RoundStore,
        rounds: Rounds,
        changes: Changes,
        norms: Norms,
        counted: Counted,
        begin: Callable[[RoundStatus], Awaitable[Collection]],
        metrics: AggregatorMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._task_id = task_id
        self._store = store
        self._rounds = rounds
        self._changes = changes
        self._norms = norms
        self._counted = counted
        self._begin = begin
        self._metrics = metrics
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Offered, None] = {}
        self._taken: Sequence[Offered] = ()
        self._sum: Collection | None = None
        self._is_in_use = False
        """Whether a group is being judged, folded or committed: until it is, the sum is this committer's alone."""
        self._was_read: RoundStatus | None = None
        self._must_read = False
        self._arriving = 0
        self._somebody_came = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether it holds nothing that would be missed."""
        return self._running is None and self._sum is None and not self._arriving

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """Around the upload of a contribution: groups that are about to be committed wait for it, for a moment."""
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1
            self._somebody_came.set()

    def offer(self, offered: Offered) -> None:
        """Takes a contribution in; `offered.answer` is settled later."""
        self._waiting[offered] = None
        self._somebody_came.set()
        if self._running is None:
            self._running = asyncio.create_task(self._run())

    def withdraw(self, offered: Offered) -> None:
        """Lets go of a contribution that nobody waits for. One that is being committed may be counted all the same."""
        self._waiting.pop(offered, None)
        offered.answer.cancel()

    def look(self, status: RoundStatus, *, closes: bool = False) -> None:
        """Lets go of the sum where its round collects no more: what of it is committed lies in the blob store.

        `closes`: it is this replica that closes the round, and it may take the sum.
        """
        is_wanted = closes and status.state is State.AGGREGATING
        if self._sum is not None and self._sum.is_over(status) and not is_wanted:
            self._sum = None

    def take_sum(self, pointer: SumPointer) -> PartialSum | None:
        """The sum that this pointer names, where it is in memory and at rest; it is the caller's then."""
        taken = self._sum.take(pointer) if isinstance(self._sum, OpenSum) and not self._is_in_use else None
        if taken is not None:
            self._sum = None
        return taken

    def stop(self, error: DiscoError) -> None:
        """Ends the committer; all that wait are given `error`."""
        if self._running is not None:
            self._running.cancel()
        self._refuse_all(error)

    async def _run(self) -> None:
        while self._waiting:
            try:
                await self._turn()
            # The pump: faults and bugs alike must reach those who wait (whose calls log them), and must leave no sum
            # behind that nobody can vouch for.
            except Exception as error:  # noqa: BLE001
                self._sum = None
                self._refuse_all(error)
        self._running = None

    def _refuse_all(self, error: Exception) -> None:
        refused, self._taken = [*self._taken, *self._waiting], ()
        self._waiting.clear()
        for offered in refused:
            offered.refuse(error)

    async def _turn(self) -> None:
        status = await self._collecting()
        if status is None:
            return
        self._is_in_use = True
        try:
            await self._gather_and_commit(status)
        finally:
            self._is_in_use = False

    async def _gather_and_commit(self, status: RoundStatus) -> None:
        current = self._sum
        if current is None or not current.takes(status):
            try:
                current = self._sum = await self._begin(status)
            except RoundMoved:
                self._must_read = True  # far
                return
        patience = COMMIT_S + current.size / COMMIT_BYTES_PER_S  # what committing without the others would take
        until = self._loop.time() + GATHERED_TIMES * patience
        self._taken = []
        while others := await self._next_members(status, current):
            self._taken = [*self._taken, *others]
            await current.fold(others)
            if self._must_read or not await self._another_comes(status, min(self._loop.time() + patience, until)):
                break
        if self._taken:
            await self._commit(self._taken, current, status)
            self._taken = ()

    async def _collecting(self) -> RoundStatus | None:
        """The round once it collects; None where nobody waits for that any more.

        The round that was seen last is not read again while it goes with the sum, nor to begin a sum where no hint
        tells of anything later: should it have moved, the commit says so, and nothing was changed. Nobody is
        refused by it.
        """
        seen = self._rounds.last_seen(self._task_id)
        if seen is not None and not self._must_read:
            told = self._changes.newest(self._task_id)
            if self._goes_on(seen) or (self._rounds.seen_at(self._task_id, told) and await self._may_begin(seen)):
                self._was_read = None
                return seen
        while self._waiting:
            hint = self._changes.next(self._task_id)
            status = await self._rounds.status(self._task_id)
            self._was_read, self._must_read = status, False
            if self._goes_on(status) or await self._may_begin(status):
                return status
            await either(hint, seconds=LOOK_AGAIN_S)
        return None

    def _goes_on(self, status: RoundStatus) -> bool:
        """Whether the sum is one of this round, and the round collects."""
        return self._sum is not None and self._sum.takes(status)

    async def _may_begin(self, status: RoundStatus) -> bool:
        return status.state is State.COLLECTING and not await self._rounds.is_behind(status)

    async def _another_comes(self, status: RoundStatus, until: float) -> bool:
        """Waits for another contribution while one is arriving, or is needed to close the round."""
        while not self._waiting:
            is_expected = contributions_needed(status) > status.contributions + len(self._taken)
            if not self._arriving and not is_expected:
                return False
            self._somebody_came.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._somebody_came.wait()
            except TimeoutError:
                return False
        return True

    async def _next_members(self, status: RoundStatus, current: Collection) -> list[Offered]:
        """Takes those out of the queue that can be committed with those that were taken, and answers those that
        cannot be at all."""
        group: dict[str, Offered] = {}
        taken = {offered.participant_id for offered in self._taken}
        size, room = sum(len(offered.weights) for offered in self._taken), current.room
        candidates = self._candidates(taken, size)
        for offered, verdict in zip(candidates, await self._all_judged(candidates, status, current), strict=True):
            if isinstance(verdict, int) and verdict > room and not group and not taken:
                verdict = WeightCapReached(cap=status.weight_cap)
            if isinstance(verdict, Refusal) and status is not self._was_read:
                self._must_read = True
                break
            if isinstance(verdict, Refusal):
                verdict = await self._receipt_or(verdict, offered, status)
            if not isinstance(verdict, int):
                self._waiting.pop(offered, None)
                _answer(offered, verdict)
                continue
            size += len(offered.weights)
            is_full = size > GROUP_BYTES or len(group) + len(taken) == GROUP_MEMBERS
            if (group or taken) and (verdict > room or is_full):
                break
            offered.weight = verdict
            room -= verdict
            group[offered.participant_id] = offered
        # Some may have been withdrawn while others were judged.
        return [offered for offered in group.values() if self._waiting.pop(offered, offered) is None]

    def _candidates(self, taken: Container[str], size: int) -> list[Offered]:
        """Who waits, one contribution of each participant, as far as they may fit into one group."""
        candidates: dict[str, Offered] = {}
        for offered in self._waiting:
            if offered.participant_id in candidates or offered.participant_id in taken:
                offered.searched_before = -1  # by the next group's turn, the first may be counted in this very round
                continue
            if candidates and (size > GROUP_BYTES or len(candidates) == GROUP_MEMBERS):
                break
            candidates[offered.participant_id] = offered
            size += len(offered.weights)
        return list(candidates.values())

    async def _all_judged(
        self, candidates: Sequence[Offered], status: RoundStatus, current: Collection
    ) -> list[int | Admission | Refusal]:
        """Side by side, where going over the weights of each is work for a thread."""
        if not is_long(current.size):
            return [await self._judged(offered, status, current) for offered in candidates]
        judging = [self._judged(offered, status, current) for offered in candidates]
        verdicts: list[int | Admission | Refusal] = []
        for outcome in await asyncio.gather(*judging, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, Refusal):
                raise outcome
            verdicts.append(outcome)
        return verdicts

    async def _judged(self, offered: Offered, status: RoundStatus, current: Collection) -> int | Admission | Refusal:
        """Its weight, or its answer."""
        try:
            if offered.searched_before < status.number:
                if (found := await self._find(offered, status)) is not None:
                    return found
                offered.searched_before = status.number
            weight = weight_of(status, base_round=offered.base_round, sample_count=offered.sample_count)
            await current.check(offered)
            offered.norm = await self._norms.check(offered, status)
        except Refusal as refusal:
            return refusal
        return weight

    async def _receipt_or(self, refusal: Refusal, offered: Offered, status: RoundStatus) -> Admission | Refusal:
        """What was sent twice may be counted by now, by the group before or at another replica, and take the room."""
        try:
            return await self._find(offered, status) or refusal
        except Refusal as other:
            return other

    async def _find(self, offered: Offered, status: RoundStatus) -> Admission | None:
        """Raises DuplicateContribution."""
        return await self._counted.find(
            status,
            participant_id=offered.participant_id,
            digest=offered.digest,
            base_round=offered.base_round,
        )

    async def _commit(self, group: Sequence[Offered], current: Collection, status: RoundStatus) -> None:
        while group:
            try:
                admissions, after = await self._store.commit_group(
                    self._task_id,
                    epoch=status.epoch,
                    number=status.number,
                    pointer=await current.write(),
                    group=[offered.as_contribution() for offered in group],
                    now=self._clock(),
                )
            except GroupConflict as conflict:
                self._counted.met(status, [group[index].participant_id for index in conflict.refused])
                group = await self._without(conflict.refused, group, current)
            except RoundMoved:
                self._sum, self._must_read = None, True
                self._put_back(group)
                return
            except StoreUnavailable as fault:
                self._sum = None
                _refuse(group, fault)
                return
            else:
                current.committed()
                self._rounds.saw(after)
                self._counted.met(status, [offered.participant_id for offered in group])
                self._committed(group, admissions, after)
                return

    def _put_back(self, group: Sequence[Offered]) -> None:
        """To the head of the queue, to be judged anew."""
        self._waiting = dict.fromkeys((*(offered for offered in group if not offered.answer.done()), *self._waiting))

    async def _without(
        self, refused: Mapping[int, Admission | DiscoError], group: Sequence[Offered], current: Collection
    ) -> list[Offered]:
        """Answers those that the store refused and takes them out of the sum; the others."""
        if _may_be_this_commit(refused, group):
            self._sum = None
        else:
            await current.take_out([group[index] for index in refused])
        for index, answer in refused.items():
            _answer(group[index], answer)
        return [offered for index, offered in enumerate(group) if index not in refused]

    def _committed(self, group: Sequence[Offered], admissions: Sequence[Admission], after: RoundStatus) -> None:
        if is_due(after, self._clock()):
            self._changes.announce_due(self._task_id)  # first: everybody waits for that
        for offered, admission in zip(group, admissions, strict=True):
            offered.admit(admission)
        self._metrics.group_members.observe(len(group))
        self._metrics.folded_bytes.inc(sum(len(offered.weights) for offered in group))


def _may_be_this_commit(refused: Mapping[int, Admission | DiscoError], group: Sequence[Offered]) -> bool:
    """Whether all are admitted just as committing this group would have admitted them."""
    first = refused.get(0)
    return isinstance(first, Admission) and all(
        refused.get(index)
        == Admission(
            participant_id=offered.participant_id,
            digest=offered.digest,
            base_round=offered.base_round,
            weight=offered.weight,
            round=first.round,
            position=first.position + index,
        )
        for index, offered in enumerate(group)
    )


def _answer(offered: Offered, answer: Admission | DiscoError) -> None:
    if isinstance(answer, Admission):
        offered.admit(answer, repeated=True)
    else:
        offered.refuse(answer)


def _refuse(group: Sequence[Offered], fault: StoreUnavailable) -> None:
    for offered in group:
        offered.refuse(fault)
