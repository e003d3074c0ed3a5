"""disco.aggregator.v1.AggregatorService: messages in, messages out; the rules are elsewhere."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from disco.aggregator.v1 import aggregator_service_pb2
from disco.aggregator.v1.aggregator_service_pb2 import HandOverContributionsRequest, HandOverContributionsResponse
from disco.aggregator.v1.round_pb2 import Receipt

from learning.federated import RoundStatus, State, is_due
from learning.ids import ParticipantId, participant_id, task_id, valid_id
from learning.refusals import MalformedMessage, Refusal, StreamStalled, TooLarge
from roundstore.store import RoundStore
from rpc.chunks import chunk_parts
from rpc.handover import Handover
from rpc.interceptors import answerable
from rpc.status import to_rich_status
from services.aggregator.arrivals import Arrival, InFile, InMessage, Streamed
from services.aggregator.changes import Changes, either
from services.aggregator.deliveries import Deliveries, Delivery, header_message
from services.aggregator.history import History
from services.aggregator.history_calls import HistoryCalls
from services.aggregator.policies import Policies
from services.aggregator.privacy_accounts import PrivacyAccounts
from services.aggregator.receipt_key import ReceiptKey
from services.aggregator.refusal_log import RefusalLog
from services.aggregator.rollbacks import Rollbacks
from services.aggregator.round_messages import (
    duration_message,
    receipt_message,
    statement_of,
)
from services.aggregator.rounds import Rounds
from services.aggregator.submissions import Announced, Submissions
from services.aggregator.versions import Versions

IDLE_TIMEOUT_S = 30.0
HANDED_OVER_S = 10.0
MAX_LEASES = 10_000
MAX_TOGETHER = 64
MAX_METADATA_BYTES = 64 << 10
WATCH_AGAIN_S = 10.0
"""How often a watcher's round is read where no hint comes: hints may be lost."""
PASSING_S = 0.02
"""Watchers do not hear of a round that is complete, or being closed, for a shorter time than this: of the next one."""


class AggregatorServicer(HistoryCalls):
    """`clock` tells seconds since the epoch; `lease_s` is how long a participant is present without a renewal."""

    def __init__(
        self,
        store: RoundStore,
        *,
        rounds: Rounds,
        accounts: PrivacyAccounts,
        changes: Changes,
        submissions: Submissions,
        versions: Versions,
        receipt_key: ReceiptKey,
        history: History,
        refusal_log: RefusalLog,
        rollbacks: Rollbacks,
        policies: Policies,
        clock: Callable[[], float],
        lease_s: float,
        max_bytes: int,
        handover: Handover | None = None,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
    ) -> None:
        super().__init__(
            history,
            receipt_key,
            rounds=rounds,
            accounts=accounts,
            refusal_log=refusal_log,
            rollbacks=rollbacks,
            policies=policies,
        )
        self._store = store
        self._rounds = rounds
        self._changes = changes
        self._submissions = submissions
        self._versions = versions
        self._clock = clock
        self._lease_s = lease_s
        self._max_bytes = max_bytes
        self._handover = handover
        self._deliveries = Deliveries(rounds, handover)
        self._idle_timeout_s = idle_timeout_s

    async def JoinTask(  # noqa: N802 (the name in the contract)
        self, request: aggregator_service_pb2.JoinTaskRequest, context: Any
    ) -> aggregator_service_pb2.JoinTaskResponse:
        connection = _connection(request.connection_id)
        status = await self._join(request.task_id, [participant_id(request.participant_id)], connection=connection)
        return aggregator_service_pb2.JoinTaskResponse(
            round=await self._round_message(status), lease=duration_message(self._lease_s)
        )

    async def RenewLeases(  # noqa: N802
        self, request: aggregator_service_pb2.RenewLeasesRequest, context: Any
    ) -> aggregator_service_pb2.RenewLeasesResponse:
        if len(request.participant_ids) > MAX_LEASES:
            raise MalformedMessage(problem=f"more than {MAX_LEASES} participants in one call")
        await self._join(request.task_id, [participant_id(text) for text in request.participant_ids])
        return aggregator_service_pb2.RenewLeasesResponse(lease=duration_message(self._lease_s))

    async def LeaveTask(  # noqa: N802
        self, request: aggregator_service_pb2.LeaveTaskRequest, context: Any
    ) -> aggregator_service_pb2.LeaveTaskResponse:
        task, participant = task_id(request.task_id), participant_id(request.participant_id)
        connection = _connection(request.connection_id)
        status = await self._rounds.changed(
            task, lambda: self._store.leave(task, participant, now=self._clock(), connection=connection)
        )
        if is_due(status, self._clock()):
            self._changes.announce_due(task)
        return aggregator_service_pb2.LeaveTaskResponse(round=await self._round_message(status))

    async def SubmitContribution(  # noqa: N802
        self, request_iterator: AsyncIterator[aggregator_service_pb2.SubmitContributionRequest], context: Any
    ) -> aggregator_service_pb2.SubmitContributionResponse:
        messages = aiter(request_iterator)
        try:
            announced = await self._announced(messages)
        except Refusal as refusal:
            self._submissions.refused_unheard(refusal)
            raise
        arrival = Streamed(
            chunk_parts(messages), digest=announced.digest, limit=self._max_bytes, idle_timeout_s=self._idle_timeout_s
        )
        return aggregator_service_pb2.SubmitContributionResponse(receipt=await self._receipt(announced, arrival))

    async def HandOverContributions(  # noqa: N802
        self, request: HandOverContributionsRequest, context: Any
    ) -> HandOverContributionsResponse:
        if not 0 < len(request.contributions) <= MAX_TOGETHER:
            raise MalformedMessage(problem=f"1 to {MAX_TOGETHER} contributions go into one call")
        outcomes = await asyncio.gather(*(self._outcome(request.task_id, each) for each in request.contributions))
        return HandOverContributionsResponse(outcomes=outcomes)

    async def GetRound(  # noqa: N802
        self, request: aggregator_service_pb2.GetRoundRequest, context: Any
    ) -> aggregator_service_pb2.GetRoundResponse:
        status = await self._rounds.status(task_id(request.task_id))
        return aggregator_service_pb2.GetRoundResponse(round=await self._round_message(status))

    async def WatchRounds(  # noqa: N802
        self, request: aggregator_service_pb2.WatchRoundsRequest, context: Any
    ) -> AsyncIterator[aggregator_service_pb2.WatchRoundsResponse]:
        task = task_id(request.task_id)
        seen: tuple[str, int] | None = None
        told: tuple[str, int] | None = None
        brought: tuple[str, int] | None = None
        delivery: Delivery | None = None
        passes_until = -math.inf  # who begins to watch is told of what there is
        while True:
            hint, now = self._changes.next(task), asyncio.get_running_loop().time()
            status = self._rounds.seen_at(task, told) or await self._rounds.status(task)
            if not _is_passing(status, self._clock()):
                passes_until = now + PASSING_S
            elif now < passes_until:
                await either(hint, seconds=passes_until - now)
                told = self._changes.newest(task) if hint.is_set() else told
                continue
            if seen != (status.epoch, status.revision):
                seen = status.epoch, status.revision
                message = aggregator_service_pb2.WatchRoundsResponse(round=await self._round_message(status))
                if request.takes_versions and brought != (status.epoch, status.number):
                    brought = status.epoch, status.number
                    delivery = await self._deliveries.with_news(status, takes_handover=request.takes_handover)
                    if delivery is not None:
                        message.new_version.CopyFrom(delivery.message)
                # Returns when there is room in the stream: a slow reader skips what happens meanwhile.
                yield message
            await either(hint, seconds=WATCH_AGAIN_S)
            told = self._changes.newest(task) if hint.is_set() else None
            if not hint.is_set():
                delivery = None  # whoever wanted the version has it by now

    async def ReadVersion(  # noqa: N802
        self, request: aggregator_service_pb2.ReadVersionRequest, context: Any
    ) -> AsyncIterator[aggregator_service_pb2.ReadVersionResponse]:
        number = request.version if request.HasField("version") else None
        version = await self._versions.find(task_id(request.task_id), number)
        header = header_message(version.number, version.weight_specs, size=version.size, digest=version.digest)
        yield aggregator_service_pb2.ReadVersionResponse(header=header)
        fresh = self._versions.fresh(version) if request.takes_handover else None
        file = await self._deliveries.in_file(fresh) if fresh is not None else None
        if file is not None:
            yield aggregator_service_pb2.ReadVersionResponse(handed_over=file.told)
            await asyncio.sleep(HANDED_OVER_S)  # the caller ends the stream as soon as it has read the file
            return
        async with aclosing(self._versions.chunks(version)) as chunks:
            async for chunk in chunks:
                yield aggregator_service_pb2.ReadVersionResponse(weights_chunk=chunk)

    async def PutMetadata(  # noqa: N802
        self, request: aggregator_service_pb2.PutMetadataRequest, context: Any
    ) -> aggregator_service_pb2.PutMetadataResponse:
        task, participant = task_id(request.task_id), participant_id(request.participant_id)
        key = valid_id(request.key, "key")
        if len(request.value.encode()) > MAX_METADATA_BYTES:
            raise TooLarge(limit_bytes=MAX_METADATA_BYTES)
        await self._rounds.task(task)
        await self._store.put_metadata(task, participant, round=request.round, key=key, value=request.value)
        return aggregator_service_pb2.PutMetadataResponse()

    async def GetMetadata(  # noqa: N802
        self, request: aggregator_service_pb2.GetMetadataRequest, context: Any
    ) -> aggregator_service_pb2.GetMetadataResponse:
        task, key = task_id(request.task_id), valid_id(request.key, "key")
        await self._rounds.task(task)
        number, texts = await self._store.get_metadata(task, round=request.round, key=key)
        response = aggregator_service_pb2.GetMetadataResponse(round=number)
        for who, text in texts.items():
            response.values[who] = text
        return response

    async def _outcome(
        self, text: str, contribution: HandOverContributionsRequest.Contribution
    ) -> HandOverContributionsResponse.Outcome:
        try:
            return HandOverContributionsResponse.Outcome(receipt=await self._handed_over(text, contribution))
        # As the interceptor of calls: what goes wrong with one contribution is nothing to the others.
        except Exception as error:  # noqa: BLE001
            refusal = to_rich_status(answerable(error, method="HandOverContributions"))
            return HandOverContributionsResponse.Outcome(refusal=refusal.SerializeToString())

    async def _handed_over(self, text: str, contribution: HandOverContributionsRequest.Contribution) -> Receipt:
        try:
            announced = Announced(
                task_id=task_id(text),
                participant_id=participant_id(contribution.participant_id),
                base_round=contribution.round,
                digest="",
                sample_count=contribution.sample_count,
            )
        except Refusal as refusal:
            self._submissions.refused_unheard(refusal)
            raise
        in_file = contribution.WhichOneof("weights") == "handed_over"
        arrival = InFile(self._handover, contribution.handed_over) if in_file else InMessage(contribution.octets)
        return await self._receipt(announced, arrival)

    async def _receipt(self, announced: Announced, arrival: Arrival) -> Receipt:
        admission = await self._submissions.submit(announced, arrival)
        return receipt_message(statement_of(announced.task_id, admission), self._receipt_key)

    async def _join(self, text: str, participants: list[ParticipantId], *, connection: str = "") -> RoundStatus:
        task, now = task_id(text), self._clock()
        until = now + self._lease_s
        return await self._rounds.changed(
            task,
            lambda: self._store.join(task, participants, lease_until=until, now=now, connection=connection),
        )

    async def _announced(self, messages: AsyncIterator[aggregator_service_pb2.SubmitContributionRequest]) -> Announced:
        """Raises MalformedMessage, InvalidId, StreamStalled."""
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                first = await anext(messages, None)
        except TimeoutError:
            raise StreamStalled(seconds=f"{self._idle_timeout_s:g}") from None
        if first is None or first.WhichOneof("part") != "header":
            raise MalformedMessage(problem="the first message must be a header")
        header = first.header
        if len(header.sha256) != 32:
            raise MalformedMessage(problem="sha256 must be 32 bytes")
        return Announced(
            task_id=task_id(header.task_id),
            participant_id=participant_id(header.participant_id),
            base_round=header.round,
            digest=header.sha256.hex(),
            sample_count=header.sample_count,
        )


def _is_passing(status: RoundStatus, now: float) -> bool:
    """Whether the next round follows at once, in all likelihood."""
    return status.state is State.AGGREGATING or is_due(status, now)


def _connection(text: str) -> str:
    """Empty where it is not told. Raises InvalidId."""
    return valid_id(text, "connection") if text else ""
