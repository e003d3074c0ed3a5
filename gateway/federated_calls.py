"""Carries the calls of federated sessions out: gRPC there, events back.

The only file that knows both `gateway.sessions.federated_terms` and the aggregator's
messages. Decides nothing: when to call is the session's business, what an answer
means, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import structlog
from disco.aggregator.v1.aggregator_service_pb2 import (
    GetMetadataRequest,
    JoinTaskRequest,
    LeaveTaskRequest,
    PutMetadataRequest,
)

from gateway.dialects.dialect import Dialect
from gateway.hub import Hub, round_view
from gateway.metrics import GatewayMetrics
from gateway.refusal_notes import RefusalNotes
from gateway.sessions.federated import ANSWER_WITHIN_S
from gateway.sessions.federated_terms import (
    Call,
    ContributionSettled,
    Event,
    Joined,
    JoinTask,
    LeaveTask,
    MetadataRead,
    NoteRefusal,
    ReadMetadata,
    ReadVersion,
    RoundSeen,
    RoundView,
    StoreMetadata,
    SubmitContribution,
    VersionRead,
    VersionUnavailable,
)
from gateway.submitting import Submitting
from gateway.versions import Versions
from learning.refusals import DiscoError, Fault, StoreUnavailable
from rpc.channel import retrying

if TYPE_CHECKING:
    from disco.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceAsyncStub

LEAVE_WITHIN_S = 3.0

Result = TypeVar("Result")

_log = structlog.stdlib.get_logger("gateway")


class FederatedCalls:
    """The calls of one session."""

    def __init__(
        self,
        task_id: str,
        participant_id: str,
        *,
        aggregator: AggregatorServiceAsyncStub,
        hub: Hub,
        submitting: Submitting,
        versions: Versions,
        dialect: Dialect,
        notes: RefusalNotes,
        metrics: GatewayMetrics,
        deliver: Callable[[Event], None],
        end: Callable[[DiscoError], None] | None = None,
    ) -> None:
        self._task_id = task_id
        self._participant_id = participant_id
        self._aggregator = aggregator
        self._hub = hub
        self._submitting = submitting
        self._versions = versions
        self._dialect = dialect
        self._notes = notes
        self._metrics = metrics
        self._deliver = deliver
        self._end = end
        self._metadata_turn = asyncio.Lock()

    async def run(self, call: Call) -> None:
        """Carries one call out and delivers what it brought. Raises a DiscoError where the socket cannot go on."""
        match call:
            case JoinTask():
                await self._join()
            case SubmitContribution(round, weights):
                self._deliver(await self._submit(round, weights))
            case ReadVersion(version, until):
                self._deliver(await self._read(version, until))
            case StoreMetadata(round, key, value):
                await self._store_metadata(round, key, value)
            case ReadMetadata():
                await self._read_metadata(call)
            case NoteRefusal(round, refusal):
                self._notes.note(self._task_id, self._participant_id, round=round, refusal=refusal)
            case LeaveTask():
                await self._leave()

    def _round_seen(self, round: RoundView) -> None:
        self._deliver(RoundSeen(round))

    async def _join(self) -> None:
        self._hub.enter(self._task_id, self._participant_id, self._round_seen, self._end)
        request = JoinTaskRequest(
            task_id=self._task_id, participant_id=self._participant_id, connection_id=self._hub.connection_id
        )
        try:
            answer = await retrying(lambda: self._aggregator.JoinTask(request), seconds=ANSWER_WITHIN_S)
        except Fault as fault:
            # The hub renews this participant's lease from now on, which joins it as soon as an aggregator answers.
            self._gave_up("JoinTask", fault)
            return
        self._hub.saw(answer.round, answer.lease.ToNanoseconds() / 1e9)
        self._deliver(Joined(round_view(answer.round)))

    async def _submit(self, round: int, weights: bytes | memoryview) -> ContributionSettled:
        try:
            receipt = await self._submitting.submit(self._task_id, self._participant_id, round=round, weights=weights)
        except DiscoError as error:
            # No dialect has room for the reason; who waits for an answer gets one from the session.
            self._metrics.contribution(error.reason)
            _log.debug("contribution.refused", task_id=self._task_id, round=round, reason=error.reason)
            return ContributionSettled(error=error)
        self._metrics.contribution("acknowledged")
        _log.debug("contribution.acknowledged", task_id=self._task_id, round=receipt.round)
        return ContributionSettled(counted_in=receipt.round)

    async def _read(self, version: int, until: float) -> Event:
        seconds = max(until - asyncio.get_running_loop().time(), 0.05)
        try:
            number, body = await self._versions.encoded(self._task_id, version, self._dialect, seconds=seconds)
        except (DiscoError, TimeoutError) as error:
            self._gave_up("ReadVersion", error)
            return VersionUnavailable()
        return VersionRead(number, body)

    async def _store_metadata(self, round: int, key: str, value: str) -> None:
        request = PutMetadataRequest(
            task_id=self._task_id, participant_id=self._participant_id, round=round, key=key, value=value
        )
        try:
            await self._in_turn(lambda: self._aggregator.PutMetadata(request))
        except DiscoError as error:
            self._gave_up("PutMetadata", error)

    async def _read_metadata(self, call: ReadMetadata) -> None:
        request = GetMetadataRequest(task_id=self._task_id, round=call.round, key=call.key)
        try:
            answer = await self._in_turn(lambda: self._aggregator.GetMetadata(request))
        except DiscoError as error:
            self._gave_up("GetMetadata", error)
            return
        self._deliver(MetadataRead(call, tuple(sorted(answer.values.items()))))

    async def _in_turn(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """One call about metadata after the other, as the client said them; its time runs while it waits, too."""
        clock = asyncio.get_running_loop().time
        until = clock() + ANSWER_WITHIN_S
        async with self._metadata_turn:
            if clock() > until:
                raise StoreUnavailable
            return await retrying(attempt, seconds=until - clock())

    async def _leave(self) -> None:
        was_last_socket = self._hub.leave(self._task_id, self._participant_id, self._round_seen)
        if self._hub.is_deserted(self._task_id):
            self._versions.forget(self._task_id)
        if not was_last_socket:
            return
        request = LeaveTaskRequest(
            task_id=self._task_id, participant_id=self._participant_id, connection_id=self._hub.connection_id
        )
        try:
            answer = await retrying(lambda: self._aggregator.LeaveTask(request), seconds=LEAVE_WITHIN_S)
        except DiscoError as error:
            self._gave_up("LeaveTask", error)  # its lease ends by itself
            return
        self._hub.saw(answer.round)

    def _gave_up(self, call: str, error: DiscoError | TimeoutError) -> None:
        reason = error.reason if isinstance(error, DiscoError) else "STORE_UNAVAILABLE"
        self._metrics.call_failed(call, reason)
        _log.debug("call.failed", call=call, task_id=self._task_id, reason=reason)
