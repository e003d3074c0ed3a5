"""The same history played to both stores gives the same rounds, admissions and refusals, after every event.

Numbers are drawn small and near the limits, so that rounds close, weights reach
their caps, leases end and refusals of all kinds happen within a few dozen events. What
a drawn history happens to meet is never asked for: `test_outcomes` leads to each outcome on purpose.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass

import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learning.federated import Contribution, GroupConflict, NotDue, Restoring, RoundMoved, RoundStatus, State, is_due
from learning.ids import ParticipantId, ReplicaId, TaskId
from learning.policy import Policy
from learning.refusals import DiscoError
from roundstore.memory_store import MemoryRoundStore
from roundstore.redis_settings import connect
from roundstore.redis_store import RedisRoundStore
from roundstore.store import RoundStore, SumPointer

PARTICIPANTS = [ParticipantId(name) for name in ("alice", "bob", "carol", "dave", "erin", "frank")]
REPLICAS = [ReplicaId("replica-1"), ReplicaId("replica-2")]
POLICIES = [
    Policy(min_participants=1, quorum_share=0.5, deadline_s=2.0, staleness_weights=(2, 1), max_total_weight=4),
    Policy(min_participants=2, quorum_share=None, quorum_count=3, deadline_s=1.1, max_total_weight=9),
    Policy(min_participants=2, quorum_share=1.0, deadline_s=0.3, staleness_weights=(3,), max_total_weight=7),
]

participants = st.sampled_from(PARTICIPANTS)
replicas = st.sampled_from(REPLICAS)
moments = st.sampled_from([-1.0, 0.0, 0.1, 1.0, 2.5])
"""Before, at and after now."""
connections = st.sampled_from(["", "older", "newer"])
epochs = st.sampled_from([True] * 15 + [False])
offsets = st.sampled_from([0] * 14 + [-1, 1])
"""Between the round that is meant and the open one."""


@dataclass(frozen=True)
class Open:
    policy: Policy
    number: int


@dataclass(frozen=True)
class Join:
    who: tuple[ParticipantId, ...]
    until: float
    connection: str = ""


@dataclass(frozen=True)
class Leave:
    who: ParticipantId
    connection: str = ""


@dataclass(frozen=True)
class Expire:
    pass


@dataclass(frozen=True)
class Commit:
    replica_id: ReplicaId
    members: tuple[tuple[ParticipantId, str, int], ...]
    right_epoch: bool
    offset: int


@dataclass(frozen=True)
class StartClosing:
    closer: ReplicaId
    until: float
    right_epoch: bool
    offset: int


@dataclass(frozen=True)
class StartRestoring:
    closer: ReplicaId
    until: float
    right_epoch: bool
    offset: int


@dataclass(frozen=True)
class FinishClosing:
    right_epoch: bool
    offset: int


@dataclass(frozen=True)
class LoseContributions:
    who: frozenset[ParticipantId]
    right_epoch: bool
    offset: int


@dataclass(frozen=True)
class LoseVersion:
    right_epoch: bool
    offset: int


@dataclass(frozen=True)
class SetPolicy:
    policy: Policy


@dataclass(frozen=True)
class Wipe:
    """Everything is lost, as where Redis is flushed."""


OfClosing = StartClosing | StartRestoring | FinishClosing | LoseContributions | LoseVersion
Event = Open | Join | Leave | Expire | Commit | OfClosing | SetPolicy | Wipe

members = st.tuples(participants, st.sampled_from(["aa", "bb"]), st.integers(1, 3))
one_each = st.lists(members, min_size=1, max_size=3, unique_by=lambda member: member[0])
any_group = st.lists(members, min_size=1, max_size=3)
ordinary: list[tuple[int, st.SearchStrategy[Event]]] = [
    (3, st.builds(Join, st.lists(participants, max_size=3).map(tuple), moments, connections)),
    (2, st.builds(Leave, participants, connections)),
    (1, st.builds(Expire)),
    (6, st.builds(Commit, replicas, one_each.map(tuple), epochs, offsets)),
    (1, st.builds(Commit, replicas, any_group.map(tuple), epochs, offsets)),
    (4, st.builds(StartClosing, replicas, moments, epochs, offsets)),
    (1, st.builds(StartRestoring, replicas, moments, epochs, offsets)),
    (3, st.builds(FinishClosing, epochs, offsets)),
    (2, st.builds(LoseContributions, st.frozensets(participants, max_size=4), epochs, offsets)),
    (3, st.builds(LoseVersion, epochs, offsets)),
    (1, st.builds(SetPolicy, st.sampled_from(POLICIES))),
]
rare = st.one_of(st.builds(Open, st.sampled_from(POLICIES), st.integers(0, 3)), st.builds(Wipe))
events = st.sampled_from([*(kind for often, kind in ordinary for _ in range(often)), rare]).flatmap(lambda kind: kind)
histories = st.lists(st.tuples(events, st.sampled_from([0.0, 0.1, 0.7])), min_size=25, max_size=50)


async def outcome(call: Awaitable[object]) -> object:
    """What a call answers, in values that can be compared."""
    try:
        return await call
    except GroupConflict as conflict:
        return {
            index: (type(why), why.variables) if isinstance(why, DiscoError) else why
            for index, why in conflict.refused.items()
        }
    except (RoundMoved, NotDue) as refused:
        return type(refused)


class Pair:
    """Both stores, and the clock and the sums that they share."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self.epoch = 0
        self.now = 1000.0
        self.seen: Counter[str] = Counter()
        self._sums: dict[ReplicaId, SumPointer] = {}
        self._closed: dict[int, dict[ReplicaId, SumPointer]] = {}
        self._task = TaskId("task")
        self._redis = RedisRoundStore(client, lambda: f"epoch-{self.epoch}")

    async def begin(self) -> None:
        await self._client.flushall()
        self.epoch += 1
        self._sums, self._closed = {}, {}
        self._memory = MemoryRoundStore(lambda: f"epoch-{self.epoch}")
        await self._same("open", lambda store: store.open_round(self._task, POLICIES[0], number=2, now=self.now))

    async def play(self, event: Event) -> None:
        status = await self._memory.read_status(self._task)
        if isinstance(event, Wipe):
            old = self.epoch
            await self.begin()
            # A commit for the round of before finds that it is gone.
            before = self._commit(Commit(REPLICAS[0], ((PARTICIPANTS[0], "aa", 1),), True, 0), f"epoch-{old}", 2)
            assert await self._same("commit", before) is RoundMoved
        else:
            assert status is not None
            await self._apply(event, status)
        await self._compare()

    async def _apply(self, event: Event, status: RoundStatus) -> None:
        task, now = self._task, self.now
        match event:
            case Open(policy, number):
                await self._same("open", lambda store: store.open_round(task, policy, number=number, now=now))
            case Join(who, until, through):
                ends = now + until
                await self._same(
                    "join", lambda store: store.join(task, who, lease_until=ends, now=now, connection=through)
                )
            case Leave(who_leaves, ended):
                await self._same("leave", lambda store: store.leave(task, who_leaves, now=now, connection=ended))
            case Expire():
                await self._same("expire", lambda store: store.expire_leases(task, now=now))
            case SetPolicy(policy):
                await self._same("policy", lambda store: store.set_policy(task, policy, now=now))
            case Commit():
                epoch, number = self._meant(status, event.right_epoch, event.offset)
                answer = await self._same("commit", self._commit(event, epoch, number))
                if isinstance(answer, tuple):
                    self._sums[event.replica_id] = self._pointer(event)
            case StartClosing(closer, until):
                epoch, number = self._meant(status, event.right_epoch, event.offset)
                # Whether a round is due is judged before a store is asked.
                if number == status.number and status.state is State.COLLECTING and not is_due(status, now):
                    return
                await self._same(
                    "start",
                    lambda store: store.start_closing(
                        task, epoch=epoch, number=number, closer=closer, until=now + until, now=now
                    ),
                )
            case StartRestoring(closer, until):
                epoch, number = self._meant(status, event.right_epoch, event.offset)
                restoring = Restoring(version=1, request_id="r", asked_at=now)
                await self._same(
                    "restore",
                    lambda store: store.start_restoring(
                        task, epoch=epoch, number=number, closer=closer, until=now + until, restoring=restoring
                    ),
                )
            case FinishClosing():
                epoch, number = self._meant(status, event.right_epoch, event.offset)
                answer = await self._same(
                    "finish", lambda store: store.finish_closing(task, epoch=epoch, number=number)
                )
                if isinstance(answer, RoundStatus):
                    self._closed[number], self._sums = self._sums, {}
            case LoseContributions():
                await self._lose_contributions(event, status)
            case LoseVersion():
                epoch, number = self._meant(status, event.right_epoch, event.offset)
                answer = await self._same(
                    "lose version", lambda store: store.lose_version(task, epoch=epoch, number=number)
                )
                if isinstance(answer, RoundStatus):
                    self._sums = self._closed.pop(answer.number, {})

    async def _lose_contributions(self, event: LoseContributions, status: RoundStatus) -> None:
        """What is left is in one sum then."""
        if status.state is not State.AGGREGATING:
            return
        epoch, number = self._meant(status, event.right_epoch, event.offset)
        read = await self._memory.read_closing(self._task, epoch=status.epoch, number=status.number)
        lost = [admission.participant_id for admission in read.admissions if admission.participant_id in event.who]
        left = [admission.weight for admission in read.admissions if admission.participant_id not in event.who]
        sums: dict[ReplicaId, SumPointer | None] = dict.fromkeys(self._sums)
        if left:
            replica_id = min(self._sums)
            sums[replica_id] = SumPointer(replica_id, "sums/task/left", "1f" * 32, len(left), sum(left))
        answer = await self._same(
            "lose contributions",
            lambda store: store.lose_contributions(
                self._task, epoch=epoch, number=number, revision=status.revision, participant_ids=lost, sums=sums
            ),
        )
        if isinstance(answer, RoundStatus):
            self._sums = {replica_id: pointer for replica_id, pointer in sums.items() if pointer}

    def _meant(self, status: RoundStatus, right_epoch: bool, offset: int) -> tuple[str, int]:
        return status.epoch if right_epoch else "epoch-0", status.number + offset

    def _pointer(self, commit: Commit) -> SumPointer:
        before = self._sums.get(commit.replica_id)
        weight = sum(weight for _, _, weight in commit.members)
        return SumPointer(
            replica_id=commit.replica_id,
            blob=f"sums/task/{commit.replica_id}.0",
            digest=f"{len(commit.members):064x}",
            contributions=len(commit.members) + (before.contributions if before else 0),
            total_weight=weight + (before.total_weight if before else 0),
        )

    def _commit(self, commit: Commit, epoch: str, number: int):  # type: ignore[no-untyped-def]
        pointer, now = self._pointer(commit), self.now
        group = [
            Contribution(who, digest, max(number - 1, 0), weight, norm=weight / 8 if weight > 1 else None)
            for who, digest, weight in commit.members
        ]
        return lambda store: store.commit_group(
            self._task, epoch=epoch, number=number, pointer=pointer, group=group, now=now
        )

    async def _same(self, what: str, call) -> object:  # type: ignore[no-untyped-def]
        expected, found = [await outcome(call(store)) for store in self._stores()]
        assert found == expected
        kind = expected.__name__ if isinstance(expected, type) else type(expected).__name__
        self.seen[f"{what}: {kind}"] += 1
        return found

    async def _compare(self) -> None:
        """All that can be read is the same."""
        task = self._task
        await self._same("status", lambda store: store.read_status(task))
        await self._same("tasks", lambda store: store.list_open_tasks())
        status = await self._memory.read_status(task)
        assert status is not None
        await self._same("norms", lambda store: store.read_norms(task))
        await self._same("read", lambda s: s.read_closing(task, epoch=status.epoch, number=status.number))
        near = [status.number - 1, status.number, status.number + 1]
        who = PARTICIPANTS[self.seen["status: RoundStatus"] % len(PARTICIPANTS)]
        await self._same("find", lambda store: store.find_admission(task, who, rounds=near))

    def _stores(self) -> tuple[RoundStore, RoundStore]:
        return self._memory, self._redis


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def test_both_stores_answer_the_same_to_every_history(redis_url: str, runner: asyncio.Runner) -> None:
    client = connect(redis_url)
    pair = Pair(client)

    async def played(history: list[tuple[Event, float]]) -> None:
        await pair.begin()
        for event, later in history:
            pair.now += later
            await pair.play(event)

    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(histories)
    def play(history: list[tuple[Event, float]]) -> None:
        runner.run(played(history))

    try:
        play()
    finally:
        runner.run(client.aclose())
