"""Tells the aggregator which contributions the gateway refused itself, so that they stand in the task's list.

Nobody waits for a note: not the participant, not its socket's end. A few are under way at
once, for all sockets together; what comes on top of them is dropped and counted, and so is
what the aggregator does not take at the first attempt. A refusal is as valid without its note.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from disco.aggregator.v1.aggregator_service_pb2 import NoteRefusalRequest

from gateway.metrics import GatewayMetrics
from learning.refusals import DiscoError

if TYPE_CHECKING:
    from disco.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceAsyncStub

MAX_UNDER_WAY = 16
NOTED_WITHIN_S = 2.0
MAX_SENTENCE = 512


class RefusalNotes:
    """Of all sockets of one gateway."""

    def __init__(self, aggregator: AggregatorServiceAsyncStub, metrics: GatewayMetrics) -> None:
        self._aggregator = aggregator
        self._metrics = metrics
        self._under_way: set[asyncio.Task[None]] = set()

    def note(self, task_id: str, participant_id: str, *, round: int, refusal: DiscoError) -> None:
        """Waits for nothing and never fails."""
        if len(self._under_way) >= MAX_UNDER_WAY:
            self._metrics.call_failed("NoteRefusal", "SLOW_CONSUMER")
            return
        request = NoteRefusalRequest(
            task_id=task_id,
            participant_id=participant_id,
            round=round,
            reason=refusal.reason,
            # It may spell out shapes that a stranger chose.
            sentence=str(refusal)[:MAX_SENTENCE],
        )
        sending = asyncio.create_task(self._send(request))
        self._under_way.add(sending)
        sending.add_done_callback(self._under_way.discard)

    async def drain(self) -> None:
        """Returns when none is under way, which takes `NOTED_WITHIN_S` at most."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def _send(self, request: NoteRefusalRequest) -> None:
        try:
            await self._aggregator.NoteRefusal(request, timeout=NOTED_WITHIN_S)
        except DiscoError as error:
            self._metrics.call_failed("NoteRefusal", error.reason)
