"""Contributions that are ready at the same moment, in one call: small ones cost little more than their calls do.

    hand_over(a) ┐
    hand_over(b) ├ a few turns of the event loop ─ one call for each task ─ an outcome for each
    hand_over(c) ┘

No time is waited for. A frame that the loop has received is a contribution two turns later: so a call goes out when
two turns have brought no other contribution to its task. Each has its own outcome; a call that fails fails for all of
its contributions, and each may be handed over again.
Knows one method of the aggregator; nothing of where weights lie.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from disco.aggregator.v1.aggregator_service_pb2 import HandOverContributionsRequest, HandOverContributionsResponse
from disco.aggregator.v1.round_pb2 import Receipt

from learning.refusals import DiscoError, InternalError
from rpc.chunks import CHUNK_BYTES, Buffer, Written, bytes_field
from rpc.status import UnexplainedFault, from_rich_status

if TYPE_CHECKING:
    from disco.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceAsyncStub

QUIET_TURNS = 2
MAX_TOGETHER = 64
MAX_BYTES = 3 * CHUNK_BYTES
"""Of weights in one call, where there are several contributions: large ones need not wait for each other's outcomes."""

_CONTRIBUTIONS = HandOverContributionsRequest.CONTRIBUTIONS_FIELD_NUMBER
_OCTETS = HandOverContributionsRequest.Contribution.OCTETS_FIELD_NUMBER

_log = structlog.stdlib.get_logger("gateway")


@dataclass(frozen=True, slots=True)
class _Ready:
    contribution: HandOverContributionsRequest.Contribution
    octets: Buffer
    answer: asyncio.Future[Receipt]

    @property
    def size(self) -> int:
        """Bytes of weights."""
        return len(self.octets) + self.contribution.handed_over.size

    def written(self) -> tuple[Buffer, ...]:
        head = self.contribution.SerializeToString()
        return (head, *bytes_field(_OCTETS, self.octets)) if self.octets else (head,)

    def settle(self, outcome: Receipt | DiscoError) -> None:
        if self.answer.done():
            return  # whoever waited gave up
        if isinstance(outcome, DiscoError):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


class Bundles:
    """One per gateway."""

    def __init__(self, aggregator: AggregatorServiceAsyncStub, *, seconds: float) -> None:
        self._aggregator = aggregator
        self._seconds = seconds
        self._ready: dict[str, list[_Ready]] = {}
        self._calls: set[asyncio.Task[None]] = set()

    async def hand_over(
        self, task_id: str, contribution: HandOverContributionsRequest.Contribution, octets: Buffer = b""
    ) -> Receipt:
        """The receipt of a contribution whose weights are in a file, or are `octets`. Raises DiscoError."""
        loop = asyncio.get_running_loop()
        ready = self._ready.setdefault(task_id, [])
        if not ready:
            # A context of its own: the call is not the first caller's.
            loop.call_soon(self._turn, task_id, 0, 0, context=contextvars.Context())
        answer: asyncio.Future[Receipt] = loop.create_future()
        ready.append(_Ready(contribution, octets, answer))
        return await answer

    def _turn(self, task_id: str, before: int, quiet: int) -> None:
        """One turn of the loop; `before` were ready at the last one, and for `quiet` turns."""
        count = len(self._ready[task_id])
        quiet = quiet + 1 if count == before else 0
        if quiet < QUIET_TURNS and count < MAX_TOGETHER:
            asyncio.get_running_loop().call_soon(self._turn, task_id, count, quiet)
            return
        for bundle in _bundles(self._ready.pop(task_id)):
            call = asyncio.create_task(self._call(task_id, bundle))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, task_id: str, bundle: Sequence[_Ready]) -> None:
        head = HandOverContributionsRequest(task_id=task_id).SerializeToString()
        parts = [part for ready in bundle for part in bytes_field(_CONTRIBUTIONS, *ready.written())]
        request: Any = Written(b"".join((head, *parts)))  # the stub knows messages only
        try:
            response = await self._aggregator.HandOverContributions(request, timeout=self._seconds)
            outcomes: list[Receipt | DiscoError] = [_said(outcome) for outcome in response.outcomes]
            if len(outcomes) != len(bundle):
                raise UnexplainedFault(status="OK", text=f"{len(outcomes)} outcomes of {len(bundle)} contributions")
        except DiscoError as error:
            outcomes = [error] * len(bundle)
        # The pump: whatever went wrong, those who wait must hear of it.
        except Exception:  # noqa: BLE001
            _log.exception("contributions.not_sent", task_id=task_id)
            outcomes = [InternalError(request_id="unknown")] * len(bundle)
        for ready, outcome in zip(bundle, outcomes, strict=True):
            ready.settle(outcome)


def _bundles(ready: Iterable[_Ready]) -> Iterator[list[_Ready]]:
    """In their order, as many in one as may be."""
    bundle: list[_Ready] = []
    size = 0
    for one in ready:
        if bundle and (len(bundle) == MAX_TOGETHER or size + one.size > MAX_BYTES):
            yield bundle
            bundle, size = [], 0
        bundle.append(one)
        size += one.size
    yield bundle


def _said(outcome: HandOverContributionsResponse.Outcome) -> Receipt | DiscoError:
    return outcome.receipt if outcome.WhichOneof("outcome") == "receipt" else from_rich_status(outcome.refusal)
