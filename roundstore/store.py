"""What a store of federated rounds promises; the rules themselves are `learning.federated`.

Two implementations pass one contract suite (tests/roundstore/store_contract.py):
`MemoryRoundStore`, which is `learning.federated.step` and a dict and so the
executable specification, and `RedisRoundStore`, which is shared by processes.

Every method may raise StoreUnavailable; the caller then does not know whether
the change was made, and every method may be called again.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from learning.federated import Admission, Contribution, Restoring, RoundStatus
from learning.ids import ParticipantId, ReplicaId, TaskId
from learning.norm_gate import HISTORY
from learning.policy import Policy


@dataclass(frozen=True, slots=True)
class SumPointer:
    """Where a replica's committed partial sum of a round lies, and what it holds."""

    replica_id: ReplicaId
    blob: str
    digest: str
    """SHA-256 of the blob, lower-case hex."""
    contributions: int
    total_weight: int
    earlier: tuple[SumPointer, ...] = ()
    """Older states of the same sum that are still there, the newest first: to fall back to where the blob is lost.

    Each holds the first so many of the contributions that name this sum."""


@dataclass(frozen=True, slots=True)
class ClosingRound:
    """Everything that is needed to compute a version: frozen while the round is AGGREGATING."""

    status: RoundStatus
    admissions: tuple[Admission, ...]
    """In the order of their positions."""
    sums: tuple[SumPointer, ...]
    """One for each replica that committed, in the order of the replica ids."""
    lost: tuple[Admission, ...] = ()
    """Contributions to a round of this number that were acknowledged and are lost, in the order of their loss."""


NORMS_KEPT = HISTORY
REFUSALS_KEPT = 256


@dataclass(frozen=True, slots=True)
class NotedRefusal:
    """A contribution that was refused: whose, why, and what was said of it."""

    participant_id: ParticipantId
    round: int
    """That it started from."""
    reason: str
    sentence: str
    digest: str
    refused_at: float


def fresh_epoch() -> str:
    """A word that no round had before."""
    return secrets.token_hex(8)


class Hint(NamedTuple):
    """That a round changed."""

    task_id: TaskId
    seen_at: tuple[str, int] | None
    """Epoch and revision that the change led to. None: nobody knows, or there is no round any more."""


class RoundStore(Protocol):
    """Keeps the federated rounds of all tasks."""

    async def open_round(
        self, task_id: TaskId, policy: Policy, *, number: int, now: float, contributions_ever: int = 0
    ) -> RoundStatus:
        """Opens round `number` of a task that has none in this store, with a fresh epoch.

        Behaviour: where the task has a round already, nothing changes and that
        round's status is returned.
        """

    async def read_status(self, task_id: TaskId) -> RoundStatus | None:
        """Behaviour: None where the task has no round in this store."""

    async def list_open_tasks(self) -> list[TaskId]:
        """The tasks that have a round in this store, sorted."""

    async def join(
        self,
        task_id: TaskId,
        participant_ids: Sequence[ParticipantId],
        *,
        lease_until: float,
        now: float,
        connection: str = "",
    ) -> RoundStatus:
        """Makes participants present until `lease_until`. Raises RoundMoved where the task has no round.

        Behaviour: `connection` is remembered as the one that joined last; empty, as in renewals, leaves the one
        that is known.
        """

    async def leave(
        self, task_id: TaskId, participant_id: ParticipantId, *, now: float, connection: str = ""
    ) -> RoundStatus:
        """Ends a presence. Behaviour: no error for one that is not present. Raises RoundMoved as `join`.

        Nothing changes where another connection than this one is known to have joined last: a client that came
        back elsewhere keeps its seat when its older socket ends. Empty: the presence ends whoever joined last.
        """

    async def expire_leases(self, task_id: TaskId, *, now: float) -> RoundStatus:
        """Ends every presence whose lease has ended at `now`. Raises RoundMoved as `join`."""

    async def find_admission(
        self, task_id: TaskId, participant_id: ParticipantId, *, rounds: Sequence[int]
    ) -> list[Admission]:
        """The participant's admissions in those rounds, in their order.

        Behaviour: admissions of closed rounds are kept for at least an hour.
        """

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
        """Admits a whole group and moves the replica's pointer, or does neither: the commit point of the system.

        Behaviour: positions are given in the order of the group, going on from
        the round's. A group that is committed again finds all its members
        admitted (GroupConflict with their admissions). A group has at least one
        member; a participant who is in it twice is refused the second time as if the
        first were admitted already, so that answer holds only once the first is committed.
        With the group, and never without it, the norms of its members are remembered; those that are 0 are not.
        Raises RoundMoved where epoch or number are not the round's or it is not COLLECTING, GroupConflict.
        """

    async def start_closing(
        self, task_id: TaskId, *, epoch: str, number: int, closer: ReplicaId, until: float, now: float
    ) -> ClosingRound:
        """COLLECTING → AGGREGATING under a lease, or takes the lease over when it has ended; and reads the round.

        Behaviour: whether the round is due is judged by the caller on the
        status it read (`learning.federated.is_due`); the store checks epoch, number, state
        and lease, atomically. Raises NotDue, and StoredDataDamaged as `read_closing`: the lease is given then, too.
        """

    async def start_restoring(
        self, task_id: TaskId, *, epoch: str, number: int, closer: ReplicaId, until: float, restoring: Restoring
    ) -> RoundStatus:
        """COLLECTING → AGGREGATING under a lease, due or not; what the next version will be stays with the round.

        Raises NotDue where epoch, number or state are other ones.
        """

    async def read_closing(
        self, task_id: TaskId, *, epoch: str, number: int, in_any_state: bool = False
    ) -> ClosingRound:
        """Reads an AGGREGATING round. Raises RoundMoved where epoch, number or state are other ones.

        `in_any_state`: one that collects as well, which may have changed by the next moment.
        """

    async def finish_closing(
        self,
        task_id: TaskId,
        *,
        epoch: str,
        number: int,
        contributions: int | None = None,
        contributions_ever: int | None = None,
    ) -> RoundStatus:
        """AGGREGATING → COLLECTING of `number + 1`. Raises RoundMoved where another closer was first.

        The numbers are those of the version; None: those of the round.
        """

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
        """Lets the round collect (again) without these contributions, whose bytes are gone, under a fresh epoch.

        Behaviour: `read_closing` lists them as lost. `sums`: what the pointers of these replicas become, None: they
        go. Raises RoundMoved where epoch, number or revision are other ones.
        """

    async def lose_version(self, task_id: TaskId, *, epoch: str, number: int) -> RoundStatus:
        """Goes back from round `number`, whose base version is gone, to the one before, under a fresh epoch.

        Behaviour: the round before is as it was when it was closed, if that was less than an hour ago, and empty
        otherwise. `read_closing` of a later round `number` will list what was contributed to this one as lost.
        Raises RoundMoved where epoch or number are other ones, or there is no round before.
        """

    async def set_policy(self, task_id: TaskId, policy: Policy, *, now: float) -> RoundStatus:
        """Changes the policy of a task that has a round. Raises RoundMoved as `join`."""

    async def drop_round(self, task_id: TaskId) -> None:
        """Ends the round of a task that is no more, and what was contributed to it. Doing it again is harmless.

        Behaviour: the task then has no round in this store, until somebody opens one.
        """

    async def read_norms(self, task_id: TaskId) -> list[float]:
        """The norms of the last `NORMS_KEPT` contributions that were admitted with one, the newest first."""

    async def note_refusals(self, task_id: TaskId, refusals: Sequence[NotedRefusal]) -> None:
        """Keeps refusals, in their order, for at least a week.

        Behaviour: of each task only the newest `REFUSALS_KEPT` are kept. Noted again, they are there twice.
        """

    async def list_refusals(self, task_id: TaskId, *, limit: int, before: str = "") -> tuple[list[NotedRefusal], str]:
        """Up to `limit` refusals, the newest first, and the token for those before them; empty: there are none.

        Raises MalformedMessage where `before` is no such token.
        """

    async def put_metadata(
        self, task_id: TaskId, participant_id: ParticipantId, *, round: int, key: str, value: str
    ) -> None:
        """Keeps a text for at least a day; the same participant, round and key replace it.

        Behaviour: of the rounds that have texts under one key, only the newest thousand are kept.
        """

    async def get_metadata(self, task_id: TaskId, *, round: int, key: str) -> tuple[int, Mapping[ParticipantId, str]]:
        """All texts under a key, of the newest round not above `round` that has any; (0, {}) where none has."""

    def watch(self) -> AsyncIterator[Hint]:
        """Names a task each time its round changed, as a hint to read it again, unless one has seen it so already.

        Behaviour: hints may be lost and may be repeated; a hint for every open
        task comes at first, and each time the connection to the store was lost and found again.
        Nobody is told where a lease became longer and nothing else changed.
        Raises StoreUnavailable where the store cannot be reached at first.
        """
