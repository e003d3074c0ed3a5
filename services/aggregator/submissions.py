"""One contribution from its announcement to its receipt: what can be said early, the upload, the admission.

Knows no gRPC. What can be refused or answered without the weights is, before they are read;
what is read is held within a bound on the memory of all uploads together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from learning.federated import Admission, RoundStatus, State
from learning.ids import ParticipantId, TaskId
from learning.refusals import (
    DiscoError,
    NotHandedOver,
    Refusal,
    StoredDataDamaged,
    TaskNotFound,
    TooLarge,
    WrongScheme,
)
from learning.weighing import as_collecting, weight_of
from services.aggregator.arrivals import Arrival
from services.aggregator.counted import Counted
from services.aggregator.intake import Intake
from services.aggregator.metrics import AggregatorMetrics
from services.aggregator.offers import Offered
from services.aggregator.privacy_accounts import PrivacyAccounts
from services.aggregator.rounds import Rounds
from services.aggregator.salvage import Salvage
from services.aggregator.upload_memory import UploadMemory


@dataclass(frozen=True, slots=True)
class Announced:
    """What a sender says beside the weights. `digest` is their SHA-256, in lower-case hex; empty until it is known."""

    task_id: TaskId
    participant_id: ParticipantId
    base_round: int
    digest: str
    sample_count: int


class Submissions:
    """Takes contributions from whoever sends them. `note` is told of every refusal, and waits for nothing."""

    def __init__(
        self,
        *,
        rounds: Rounds,
        accounts: PrivacyAccounts,
        counted: Counted,
        intake: Intake,
        salvage: Salvage,
        memory: UploadMemory,
        metrics: AggregatorMetrics,
        note: Callable[[Announced, Refusal], None],
        max_bytes: int,
    ) -> None:
        self._rounds = rounds
        self._accounts = accounts
        self._counted = counted
        self._intake = intake
        self._salvage = salvage
        self._memory = memory
        self._metrics = metrics
        self._note = note
        self._max_bytes = max_bytes

    async def submit(self, announced: Announced, arrival: Arrival) -> Admission:
        """The contribution's admission, once it is durable. Raises its refusal, or a Fault that says: send it again."""
        try:
            admission, outcome = await self._submit(announced, arrival)
        except (TaskNotFound, WrongScheme) as refusal:
            self.refused_unheard(refusal)
            raise
        except DiscoError as error:
            if isinstance(error, StoredDataDamaged):
                self._salvage.forget(announced.task_id)
            self._metrics.contributions.labels(error.reason).inc()
            # One that could not be taken from its file comes again as a stream: nothing was refused.
            if isinstance(error, Refusal) and not isinstance(error, NotHandedOver):
                self._note(replace(announced, digest=arrival.digest), error)
            raise
        self._metrics.contributions.labels(outcome).inc()
        return admission

    def refused_unheard(self, refusal: DiscoError) -> None:
        """Counts one that was refused before anybody knew what it is a contribution to."""
        self._metrics.contributions.labels(refusal.reason).inc()

    async def _submit(self, announced: Announced, arrival: Arrival) -> tuple[Admission, str]:
        known = await self._rounds.federated_task(announced.task_id)
        if known.model_bytes > self._max_bytes:
            raise TooLarge(limit_bytes=self._max_bytes)
        await self._salvage.meet(announced.task_id)
        if known.aggregation.privacy is not None:
            announced = replace(announced, sample_count=0)  # who says more samples must not move the sum further
        counted = None
        if announced.digest:
            status, counted = await self._foreseen(announced, guarded=False)
            if counted is not None:
                return counted, "repeated"
        async with self._memory.lend(known.model_bytes):
            with self._intake.arriving(announced.task_id):
                weights = await arrival.received(known.model_bytes)
                if not announced.digest:
                    announced = replace(announced, digest=arrival.digest)
                    status, counted = await self._foreseen(announced, guarded=True)
            if counted is not None:
                return counted, "repeated"
            offered = Offered(
                participant_id=announced.participant_id,
                digest=announced.digest,
                base_round=announced.base_round,
                sample_count=announced.sample_count,
                weights=weights,
                searched_before=status.number,
            )
            admission = await self._intake.admit(announced.task_id, offered)
        return admission, "repeated" if offered.repeated else "admitted"

    async def _foreseen(self, announced: Announced, *, guarded: bool) -> tuple[RoundStatus, Admission | None]:
        """The round, and the answer where there is one already. Raises what would be raised after the upload anyway.

        `guarded`: there is no upload to be saved, so a repetition may as well be found when it is admitted.
        """
        seen = self._rounds.last_seen(announced.task_id)
        if seen is not None:
            try:
                return seen, await self._answer(announced, seen, guarded=guarded)
            except Refusal:
                pass  # by what was seen last; what is true now decides
        status = await self._rounds.status(announced.task_id)
        return status, await self._answer(announced, status, guarded=guarded)

    async def _answer(self, announced: Announced, status: RoundStatus, *, guarded: bool) -> Admission | None:
        counted = await self._counted.find(
            status,
            participant_id=announced.participant_id,
            digest=announced.digest,
            base_round=announced.base_round,
            guarded=guarded,
        )
        if counted is None:
            weight_of(as_collecting(status), base_round=announced.base_round, sample_count=announced.sample_count)
            if status.state is State.COLLECTING:
                await self._accounts.check(status)
        return counted
