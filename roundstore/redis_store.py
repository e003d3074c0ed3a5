"""Rounds in Redis, shared by all processes: keys, scripts, decoding.

The rules are in `learning.federated`; admission alone is written twice, here in
lua/commit_group.lua, because hundreds of contributions at once must not wait for each
other's round trips. Every change is one script, so it happens whole or not at all,
and every script answers with the round as it is then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any, cast

from redis.asyncio import Redis

from learning.federated import Admission, Contribution, GroupConflict, NotDue, Restoring, RoundMoved, RoundStatus, State
from learning.ids import ParticipantId, ReplicaId, TaskId
from learning.policy import Policy
from learning.refusals import DiscoError, DuplicateContribution, StoredDataDamaged, StoreUnavailable, WeightCapReached
from roundstore import redis_fields, redis_keys, redis_refusals
from roundstore.redis_faults import store_faults
from roundstore.script_connections import ScriptConnections
from roundstore.scripts import Argument, Reply, Script
from roundstore.store import NORMS_KEPT, ClosingRound, Hint, NotedRefusal, SumPointer, fresh_epoch

METADATA_ROUNDS = 1000
RECONNECT_S = 0.2


class Code(IntEnum):
    """What the scripts of rounds answer."""

    UNCHANGED = 0
    DONE = 1
    NO_ROUND = -1
    MOVED = -2
    CONFLICT = -3
    NOT_DUE = -4


class RedisRoundStore:
    """Keeps rounds in Redis. The client stays its owner's: closing it is not done here."""

    def __init__(self, redis: Redis, new_epoch: Callable[[], str] = fresh_epoch) -> None:
        self._redis = redis
        self._connections = ScriptConnections(redis)
        self._new_epoch = new_epoch
        self._open_round = Script("open_round")
        self._read_status = Script("read_status")
        self._join_round = Script("join_round")
        self._leave_round = Script("leave_round")
        self._expire_leases = Script("expire_leases")
        self._commit_group = Script("commit_group")
        self._start_closing = Script("start_closing")
        self._start_restoring = Script("start_restoring")
        self._read_closing = Script("read_closing")
        self._finish_closing = Script("finish_closing")
        self._lose_contributions = Script("lose_contributions")
        self._lose_version = Script("lose_version")
        self._set_policy = Script("set_policy")
        self._drop_round = Script("drop_round")

    async def open_round(
        self, task_id: TaskId, policy: Policy, *, number: int, now: float, contributions_ever: int = 0
    ) -> RoundStatus:
        keys = redis_keys.of_task(task_id)
        # Before the round, so that no round is ever missing in the set; another slot, so not in the same script.
        with store_faults():
            await self._redis.sadd(redis_keys.OPEN_TASKS, task_id)
        fields = redis_fields.new_round(self._new_epoch(), number, policy, contributions_ever=contributions_ever)
        more_keys = [keys.admissions, keys.sums, redis_keys.connections(task_id)]
        reply = await self._change(self._open_round, task_id, more_keys, _flat(fields.items()))
        return _status(task_id, reply)

    async def read_status(self, task_id: TaskId) -> RoundStatus | None:
        keys = redis_keys.of_task(task_id)
        reply = await self._read_status(self._connections, keys=[keys.round, keys.leases, keys.absent], arguments=[])
        return None if reply[0] == Code.NO_ROUND else _status(task_id, reply)

    async def list_open_tasks(self) -> list[TaskId]:
        with store_faults():
            members = cast(set[bytes], await self._redis.smembers(redis_keys.OPEN_TASKS))
            known = sorted(member.decode() for member in members)
            async with self._redis.pipeline(transaction=False) as pipeline:
                for task_id in known:
                    pipeline.exists(redis_keys.of_task(TaskId(task_id)).round)
                exist = await pipeline.execute()
        return [TaskId(task_id) for task_id, exists in zip(known, exist, strict=True) if exists]

    async def join(
        self,
        task_id: TaskId,
        participant_ids: Sequence[ParticipantId],
        *,
        lease_until: float,
        now: float,
        connection: str = "",
    ) -> RoundStatus:
        more_keys = [redis_keys.connections(task_id)]
        arguments = [redis_fields.from_time(lease_until), connection, *participant_ids]
        return _status(task_id, await self._change(self._join_round, task_id, more_keys, arguments))

    async def leave(
        self, task_id: TaskId, participant_id: ParticipantId, *, now: float, connection: str = ""
    ) -> RoundStatus:
        more_keys = [redis_keys.of_task(task_id).admissions, redis_keys.connections(task_id)]
        return _status(task_id, await self._change(self._leave_round, task_id, more_keys, [participant_id, connection]))

    async def expire_leases(self, task_id: TaskId, *, now: float) -> RoundStatus:
        more_keys = [redis_keys.of_task(task_id).admissions, redis_keys.connections(task_id)]
        arguments = [redis_fields.from_time(now)]
        return _status(task_id, await self._change(self._expire_leases, task_id, more_keys, arguments))

    async def find_admission(
        self, task_id: TaskId, participant_id: ParticipantId, *, rounds: Sequence[int]
    ) -> list[Admission]:
        # One transaction: between two commands the open round might become a closed one.
        with store_faults():
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.hget(redis_keys.of_task(task_id).admissions, participant_id)
                for number in rounds:
                    pipeline.hget(redis_keys.closed_admissions(task_id, number), participant_id)
                packed = await pipeline.execute()
        admissions = [redis_fields.to_admission(participant_id, found) for found in packed if found is not None]
        by_round = {admission.round: admission for admission in admissions}
        return [by_round[number] for number in rounds if number in by_round]

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
        assert group, "a group has members"
        keys = redis_keys.of_task(task_id)
        packed = redis_fields.from_pointer(pointer)
        members = _flat(redis_fields.from_contribution(member) for member in group)
        arguments: list[Argument] = [epoch, number, pointer.replica_id, packed, redis_fields.from_time(now), NORMS_KEPT]
        arguments += members
        more_keys = [keys.admissions, keys.sums, redis_keys.norms(task_id)]
        reply = await self._change(self._commit_group, task_id, more_keys, arguments)
        if reply[0] == Code.CONFLICT:
            cap = int(reply[2])
            raise GroupConflict({index: _refused(group[index], found, number, cap) for index, found in reply[1]})
        status = _status(task_id, reply)
        first = status.lost + status.contributions - len(group)
        admitted = [_admitted(member, number, first + index, pointer.replica_id) for index, member in enumerate(group)]
        return admitted, status

    async def start_closing(
        self, task_id: TaskId, *, epoch: str, number: int, closer: ReplicaId, until: float, now: float
    ) -> ClosingRound:
        keys = redis_keys.of_task(task_id)
        arguments: list[Argument] = [epoch, number, closer, redis_fields.from_time(until), redis_fields.from_time(now)]
        more_keys = [keys.admissions, keys.sums, redis_keys.lost(task_id, number)]
        return _closing(task_id, await self._change(self._start_closing, task_id, more_keys, arguments))

    async def start_restoring(
        self, task_id: TaskId, *, epoch: str, number: int, closer: ReplicaId, until: float, restoring: Restoring
    ) -> RoundStatus:
        arguments: list[Argument] = [epoch, number, closer, redis_fields.from_time(until)]
        arguments += redis_fields.from_restoring(restoring)
        return _status(task_id, await self._change(self._start_restoring, task_id, [], arguments))

    async def read_closing(
        self, task_id: TaskId, *, epoch: str, number: int, in_any_state: bool = False
    ) -> ClosingRound:
        keys = redis_keys.of_task(task_id)
        reply = await self._read_closing(
            self._connections,
            keys=[
                *(keys.round, keys.leases, keys.absent, keys.admissions, keys.sums),
                redis_keys.lost(task_id, number),
            ],
            arguments=[epoch, number, "" if in_any_state else State.AGGREGATING.value],
        )
        return _closing(task_id, reply)

    async def finish_closing(
        self,
        task_id: TaskId,
        *,
        epoch: str,
        number: int,
        contributions: int | None = None,
        contributions_ever: int | None = None,
    ) -> RoundStatus:
        keys = redis_keys.of_task(task_id)
        closed = [redis_keys.closed_admissions(task_id, number), redis_keys.closed_sums(task_id, number)]
        arguments: list[Argument] = [epoch, number, redis_keys.CLOSED_ROUND_TTL_S]
        arguments += ["" if count is None else count for count in (contributions, contributions_ever)]
        more_keys = [keys.admissions, keys.sums, *closed, redis_keys.lost(task_id, number)]
        return _status(task_id, await self._change(self._finish_closing, task_id, more_keys, arguments))

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
        keys = redis_keys.of_task(task_id)
        arguments: list[Argument] = [epoch, number, revision, self._new_epoch()]
        arguments += _flat(("lost", participant_id, "") for participant_id in participant_ids)
        arguments += _flat(
            ("sum", replica_id, redis_fields.from_pointer(pointer) if pointer else "")
            for replica_id, pointer in sums.items()
        )
        more_keys = [keys.admissions, keys.sums, redis_keys.lost(task_id, number)]
        return _status(task_id, await self._change(self._lose_contributions, task_id, more_keys, arguments))

    async def lose_version(self, task_id: TaskId, *, epoch: str, number: int) -> RoundStatus:
        keys = redis_keys.of_task(task_id)
        before = max(number - 1, 0)
        closed = [redis_keys.closed_admissions(task_id, before), redis_keys.closed_sums(task_id, before)]
        more_keys = [keys.admissions, keys.sums, redis_keys.lost(task_id, number), *closed]
        arguments: list[Argument] = [epoch, number, self._new_epoch()]
        return _status(task_id, await self._change(self._lose_version, task_id, more_keys, arguments))

    async def set_policy(self, task_id: TaskId, policy: Policy, *, now: float) -> RoundStatus:
        arguments = _flat(redis_fields.from_policy(policy).items())
        return _status(task_id, await self._change(self._set_policy, task_id, [], arguments))

    async def drop_round(self, task_id: TaskId) -> None:
        status, keys = await self.read_status(task_id), redis_keys.of_task(task_id)
        lost = redis_keys.lost(task_id, status.number if status else 0)
        more_keys = [keys.admissions, keys.sums, lost, redis_keys.norms(task_id), redis_keys.refusals(task_id)]
        more_keys.append(redis_keys.connections(task_id))
        await self._change(self._drop_round, task_id, more_keys, [])
        # After the round, so that no round is ever missing in the set.
        with store_faults():
            await self._redis.srem(redis_keys.OPEN_TASKS, task_id)

    async def read_norms(self, task_id: TaskId) -> list[float]:
        with store_faults():
            found = cast(list[bytes], await self._redis.lrange(redis_keys.norms(task_id), 0, NORMS_KEPT - 1))
        return [float(norm) for norm in found]

    async def note_refusals(self, task_id: TaskId, refusals: Sequence[NotedRefusal]) -> None:
        await redis_refusals.note(self._redis, task_id, refusals)

    async def list_refusals(self, task_id: TaskId, *, limit: int, before: str = "") -> tuple[list[NotedRefusal], str]:
        return await redis_refusals.newest(self._redis, task_id, limit=limit, before=before)

    async def put_metadata(
        self, task_id: TaskId, participant_id: ParticipantId, *, round: int, key: str, value: str
    ) -> None:
        texts, rounds = redis_keys.metadata(task_id, key, round), redis_keys.metadata_rounds(task_id, key)
        with store_faults():
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.hset(texts, participant_id, value)
                pipeline.expire(texts, redis_keys.METADATA_TTL_S)
                pipeline.zadd(rounds, {str(round): round})
                pipeline.zremrangebyrank(rounds, 0, -METADATA_ROUNDS - 1)
                pipeline.expire(rounds, redis_keys.METADATA_TTL_S)
                await pipeline.execute()

    async def get_metadata(self, task_id: TaskId, *, round: int, key: str) -> tuple[int, Mapping[ParticipantId, str]]:
        rounds = redis_keys.metadata_rounds(task_id, key)
        with store_faults():
            for number in map(int, cast(list[bytes], await self._redis.zrevrangebyscore(rounds, round, 0))):
                found = await self._redis.hgetall(redis_keys.metadata(task_id, key, number))
                texts = cast(dict[bytes, bytes], found)
                if texts:  # they end before their entry among the rounds does
                    return number, {ParticipantId(who.decode()): text.decode() for who, text in texts.items()}
        return 0, {}

    async def watch(self) -> AsyncIterator[Hint]:
        connected = False
        while True:
            try:
                with store_faults():
                    async with self._redis.pubsub() as pubsub:
                        await pubsub.subscribe(redis_keys.CHANNEL)
                        async for message in pubsub.listen():
                            connected = True
                            for hint in await self._hints(message):
                                yield hint
            except StoreUnavailable:
                if not connected:
                    raise
                await asyncio.sleep(RECONNECT_S)

    async def _hints(self, message: Mapping[str, Any]) -> list[Hint]:
        if message["type"] != "subscribe":
            task_id, *seen_at = message["data"].decode().split(" ")
            return [Hint(TaskId(task_id), (seen_at[0], int(seen_at[1])) if seen_at else None)]
        # The client subscribes again, too, when it replaced the connection by itself; hints may have been lost then.
        return [Hint(task_id, None) for task_id in await self.list_open_tasks()]

    async def _change(
        self, script: Script, task_id: TaskId, more_keys: Sequence[str], more_arguments: Sequence[Argument]
    ) -> Reply:
        keys = redis_keys.of_task(task_id)
        return await script(
            self._connections,
            keys=[keys.round, keys.leases, keys.absent, *more_keys],
            arguments=[redis_keys.CHANNEL, task_id, *more_arguments],
        )


def _status(task_id: TaskId, reply: Reply) -> RoundStatus:
    """Raises RoundMoved, NotDue."""
    if reply[0] in (Code.NO_ROUND, Code.MOVED):
        raise RoundMoved
    if reply[0] == Code.NOT_DUE:
        raise NotDue
    return redis_fields.to_status(task_id, reply[1], participants=reply[2], absent_contributors=reply[3])


def _closing(task_id: TaskId, reply: Reply) -> ClosingRound:
    """Raises RoundMoved, NotDue, StoredDataDamaged."""
    status = _status(task_id, reply)
    admissions = [redis_fields.to_admission(ParticipantId(who), found) for who, found in _pairs(reply[4])]
    sums = [redis_fields.to_pointer(ReplicaId(replica_id), found) for replica_id, found in _pairs(reply[5])]
    if (
        len(admissions) != status.contributions
        or sum(admission.weight for admission in admissions) != status.total_weight
        or sum(pointer.contributions for pointer in sums) != status.contributions
        or sum(pointer.total_weight for pointer in sums) != status.total_weight
    ):
        raise StoredDataDamaged(name=f"Round {status.number} of {task_id}")  # a key was evicted, or removed by hand
    return ClosingRound(
        status=status,
        admissions=tuple(sorted(admissions, key=lambda admission: admission.position)),
        sums=tuple(sorted(sums, key=lambda pointer: pointer.replica_id)),
        lost=tuple(map(redis_fields.to_lost, reply[6])),
    )


def _refused(offered: Contribution, found: bytes, number: int, cap: int) -> Admission | DiscoError:
    if not found:
        return WeightCapReached(cap=cap)
    earlier = redis_fields.to_admission(offered.participant_id, found)
    if earlier.digest == offered.digest:
        return earlier
    return DuplicateContribution(participant_id=offered.participant_id, round=number)


def _admitted(offered: Contribution, number: int, position: int, sum: ReplicaId) -> Admission:
    return Admission(
        participant_id=offered.participant_id,
        digest=offered.digest,
        base_round=offered.base_round,
        weight=offered.weight,
        round=number,
        position=position,
        sum=sum,
    )


def _flat(groups: Iterable[Iterable[Argument]]) -> list[Argument]:
    return [argument for group in groups for argument in group]


def _pairs(reply: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    """The reply of HGETALL inside a script: names and values in turn."""
    return ((name.decode(), value) for name, value in zip(reply[::2], reply[1::2], strict=True))
