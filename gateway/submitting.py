"""Contributions on their way to an aggregator, the cheapest way that works.

    up to 1 MiB             in a message, with others that are ready at the same moment (`gateway.bundles`)
    larger, same machine    decoded into a file that the aggregator can open (`rpc.handover`), and handed over likewise
    larger, elsewhere       as a stream of chunks, with their SHA-256

Whether an aggregator can open the file shows when it is asked to: where it cannot, this and the next contributions
are streamed. Each way may be repeated, and all lead to the same receipt. Knows bytes; nothing of sessions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog
from disco.aggregator.v1.aggregator_service_pb2 import HandOverContributionsRequest, SubmitContributionRequest
from disco.aggregator.v1.round_pb2 import Receipt

from gateway.bundles import Bundles
from learning.refusals import NotHandedOver
from rpc.channel import retrying
from rpc.chunks import CHUNK_BYTES, Buffer, written_chunks_of
from rpc.handover import STREAMED_FOR_S, Handover
from rpc.off_loop import off_loop

if TYPE_CHECKING:
    from disco.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceAsyncStub

SUBMIT_WITHIN_S = 60.0

_log = structlog.stdlib.get_logger("gateway")


class Submitting:
    """One per gateway. `clock` tells monotonic seconds; without a `handover`, nothing is handed over."""

    def __init__(
        self, aggregator: AggregatorServiceAsyncStub, handover: Handover | None, *, clock: Callable[[], float]
    ) -> None:
        self._aggregator = aggregator
        self._bundles = Bundles(aggregator, seconds=SUBMIT_WITHIN_S)
        self._handover = handover
        self._clock = clock
        self._streamed_until = clock()

    def room(self, size: int) -> memoryview:
        """Where weights of `size` bytes are put that will be submitted. In any thread."""
        room = self._handover.room(size) if self._handover is not None and self._hands_over(size) else None
        return np.empty(size, np.uint8).data if room is None else room

    def seal(self, weights: bytes | memoryview) -> None:
        """The weights are whole: does what `submit` would have to do on the event loop. In any thread."""
        if self._handover is not None:
            self._handover.told(weights)

    def _hands_over(self, size: int) -> bool:
        return size > CHUNK_BYTES and self._clock() >= self._streamed_until

    async def submit(self, task_id: str, participant_id: str, *, round: int, weights: Buffer) -> Receipt:
        """The receipt of canonical weights that were trained from this round's version. Raises DiscoError."""
        contribution = HandOverContributionsRequest.Contribution(participant_id=participant_id, round=round)
        size = len(weights)
        if size <= CHUNK_BYTES:
            return await self._bundled(task_id, contribution, weights)
        if self._handover is not None and self._hands_over(size):
            handed_over = self._handover.told(weights)  # the room is ours as long as the caller refers to the weights
            if handed_over is not None:
                contribution.handed_over.CopyFrom(handed_over)
                try:
                    return await self._bundled(task_id, contribution)
                except NotHandedOver:
                    self._streamed_until = self._clock() + STREAMED_FOR_S
                    _log.info("contribution.not_handed_over", streamed_for_s=STREAMED_FOR_S)
        return await self._as_stream(task_id, participant_id, round=round, weights=weights)

    async def _bundled(
        self, task_id: str, contribution: HandOverContributionsRequest.Contribution, octets: Buffer = b""
    ) -> Receipt:
        return await retrying(lambda: self._bundles.hand_over(task_id, contribution, octets), seconds=SUBMIT_WITHIN_S)

    async def _as_stream(self, task_id: str, participant_id: str, *, round: int, weights: Buffer) -> Receipt:
        digest = await off_loop(len(weights), lambda: hashlib.sha256(weights).digest())
        header = SubmitContributionRequest.Header(
            task_id=task_id, participant_id=participant_id, round=round, sha256=digest
        )

        def parts() -> Iterator[Any]:  # the stub knows messages only; the channel takes those that are written, too
            yield SubmitContributionRequest(header=header)
            yield from written_chunks_of(weights)

        answer = await retrying(
            lambda: self._aggregator.SubmitContribution(parts(), timeout=SUBMIT_WITHIN_S), seconds=SUBMIT_WITHIN_S
        )
        return answer.receipt
