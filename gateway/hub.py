"""Who is here, by task, and what the tasks' rounds are doing.

While a task has participants on this gateway it has two loops: one stream of
rounds from an aggregator, fanned out to all of its sessions, and one that renews
the participants' leases. Loops find their way back when a service goes and comes.

Listeners are called in the event loop and must not wait: nobody's slowness
delays the others. Knows no socket and no dialect.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import structlog
from disco.aggregator.v1.aggregator_service_pb2 import (
    GetRoundRequest,
    NewVersion,
    RenewLeasesRequest,
    WatchRoundsRequest,
)
from disco.aggregator.v1.round_pb2 import Round

from gateway.sessions.federated_terms import RoundView
from learning.refusals import DiscoError, TaskNotFound
from rpc.channel import retrying

if TYPE_CHECKING:
    from disco.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceAsyncStub

FIRST_LEASE_S = 30.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
MAX_PARTICIPANTS_PER_CALL = 10_000

Listener = Callable[[RoundView], None]
Gone = Callable[[DiscoError], None]
Brought = Callable[[str, NewVersion], None]
"""Is told of a version that came with the news of it, before the listeners are told of the news."""

_log = structlog.stdlib.get_logger("gateway")


def round_view(round: Round) -> RoundView:
    return RoundView(
        number=round.number,
        version=round.version,
        revision=round.revision,
        participants=round.participants,
        contributions_ever=round.contributions_ever,
        min_participants=round.policy.min_participants,
    )


class Hub:
    """One per gateway."""

    def __init__(
        self,
        aggregator: AggregatorServiceAsyncStub,
        *,
        brought: Brought = lambda _, __: None,
        takes_handover: bool = False,
    ) -> None:
        self._aggregator = aggregator
        self._brought = brought
        self._takes_handover = takes_handover
        self._attendances: dict[str, _Attendance] = {}
        self.connection_id = secrets.token_hex(8)
        """What this gateway is called in joins: whoever has joined through another one since, keeps its seat there."""

    def enter(self, task_id: str, participant_id: str, listener: Listener, gone: Gone | None = None) -> None:
        """Counts one socket of a participant in; `listener` is told of every change of the round, and at once if it
        is known; `gone` once the task is no more."""
        attendance = self._attendances.get(task_id)
        if attendance is None:
            request = WatchRoundsRequest(task_id=task_id, takes_versions=True, takes_handover=self._takes_handover)
            attendance = self._attendances[task_id] = _Attendance(self._aggregator, request, self._brought)
            attendance.start()
        attendance.enter(participant_id, listener, gone)

    def leave(self, task_id: str, participant_id: str, listener: Listener) -> bool:
        """Counts that socket out; says whether it was the participant's last one here."""
        attendance = self._attendances[task_id]
        was_last = attendance.leave(participant_id, listener)
        if attendance.is_empty:
            attendance.stop()
            del self._attendances[task_id]
        return was_last

    def is_deserted(self, task_id: str) -> bool:
        """Whether nobody takes part in the task here."""
        return task_id not in self._attendances

    def saw(self, round: Round, lease_s: float | None = None) -> None:
        """Takes note of a round, and of a lease, that came with the answer to another call."""
        attendance = self._attendances.get(round.task_id)
        if attendance is not None:
            attendance.saw(round_view(round))
            attendance.lease_s = lease_s or attendance.lease_s

    def close(self) -> None:
        for attendance in self._attendances.values():
            attendance.stop()
        self._attendances.clear()


class _Attendance:
    """The participants of one task on this gateway."""

    def __init__(self, aggregator: AggregatorServiceAsyncStub, watching: WatchRoundsRequest, brought: Brought) -> None:
        self._aggregator = aggregator
        self._task_id = watching.task_id
        self._watching = watching
        self._brought = brought
        self._sockets: Counter[str] = Counter()
        self._listeners: dict[Listener, Gone | None] = {}
        self._newest: RoundView | None = None
        self._loops: list[asyncio.Task[None]] = []
        self.lease_s = FIRST_LEASE_S

    @property
    def is_empty(self) -> bool:
        return not self._listeners

    def start(self) -> None:
        for loop in (self._watch, self._renew):
            # A context of their own: they outlive the request in which the first participant came.
            running = asyncio.create_task(self._forever(loop), context=contextvars.Context())
            self._loops.append(running)

    def stop(self) -> None:
        for loop in self._loops:
            loop.cancel()

    def enter(self, participant_id: str, listener: Listener, gone: Gone | None) -> None:
        self._sockets[participant_id] += 1
        self._listeners[listener] = gone
        if self._newest is not None:
            listener(self._newest)

    def leave(self, participant_id: str, listener: Listener) -> bool:
        self._listeners.pop(listener, None)
        self._sockets[participant_id] -= 1
        if self._sockets[participant_id] > 0:
            return False
        del self._sockets[participant_id]
        return True

    def saw(self, round: RoundView, *, confirmed: bool = False) -> bool:
        """Tells the listeners; says whether it did. An older round than the newest one known is only believed where
        it was `confirmed`: answers overtake each other, and a store that went back is rare."""
        if self._newest is not None:
            if round == self._newest:
                return True
            if round.revision < self._newest.revision and not confirmed:
                return False
        self._newest = round
        for listener in tuple(self._listeners):
            listener(round)
        return True

    async def _watch(self) -> None:
        """One subscription, until it breaks."""
        stream = self._aggregator.WatchRounds(self._watching)
        try:
            async for message in stream:
                if message.HasField("new_version"):
                    self._brought(self._task_id, message.new_version)
                if not self.saw(round_view(message.round)):
                    answer = await self._aggregator.GetRound(GetRoundRequest(task_id=self._task_id))
                    self.saw(round_view(answer.round), confirmed=True)
        finally:
            stream.cancel()

    async def _renew(self) -> None:
        """One lease's third of waiting, and one renewal."""
        await asyncio.sleep(self.lease_s / 3)
        everybody = list(self._sockets)
        for start in range(0, len(everybody), MAX_PARTICIPANTS_PER_CALL):
            request = RenewLeasesRequest(
                task_id=self._task_id, participant_ids=everybody[start : start + MAX_PARTICIPANTS_PER_CALL]
            )
            answer = await retrying(lambda: self._aggregator.RenewLeases(request), seconds=self.lease_s / 3)  # noqa: B023
            self.lease_s = answer.lease.ToNanoseconds() / 1e9 or self.lease_s

    async def _forever(self, once: Callable[[], Coroutine[Any, Any, None]]) -> None:
        pause = FIRST_PAUSE_S
        name = once.__name__.strip("_")
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await once()
            except DiscoError as error:
                if isinstance(error, TaskNotFound):  # deleted meanwhile: nothing will ever come of waiting
                    for gone in tuple(filter(None, self._listeners.values())):
                        gone(error)
                _log.debug("hub.loop_broke", loop=name, task_id=self._task_id, reason=error.reason)
            # The pump: whatever went wrong, the participants of this task still need their rounds and leases.
            except Exception:  # noqa: BLE001
                _log.exception("hub.loop_failed", loop=name, task_id=self._task_id)
            if asyncio.get_running_loop().time() - started > LONGEST_PAUSE_S:
                pause = FIRST_PAUSE_S
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (spreads callers out, hides nothing)
            pause = min(2 * pause, LONGEST_PAUSE_S)
