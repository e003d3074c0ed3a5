"""A contribution on its way to admission, and whether it is counted already.

Knows what the round store tells; no sums.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from learning.federated import Admission, Contribution, RoundStatus, State
from learning.ids import ParticipantId
from learning.policy import MAX_STALENESS
from learning.refusals import DuplicateContribution
from roundstore.store import RoundStore


@dataclass(slots=True, eq=False)
class Offered:
    """A contribution that has arrived whole and waits for its answer."""

    participant_id: ParticipantId
    digest: str
    base_round: int
    sample_count: int
    weights: bytearray
    searched_before: int
    """It was counted in no round below this one."""
    weight: int = 0
    """As judged for the group it is in."""
    norm: float | None = None
    """As measured then, where the task asks."""
    repeated: bool = False
    """Whether the answer is the receipt of an earlier call."""
    answer: asyncio.Future[Admission] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def as_contribution(self) -> Contribution:
        return Contribution(
            participant_id=self.participant_id,
            digest=self.digest,
            base_round=self.base_round,
            weight=self.weight,
            norm=self.norm,
        )

    def admit(self, admission: Admission, *, repeated: bool = False) -> None:
        """Answers with a receipt, unless its sender is gone."""
        if not self.answer.done():
            self.repeated = repeated
            self.answer.set_result(admission)

    def refuse(self, error: Exception) -> None:
        """Answers with a refusal or a fault, unless its sender is gone."""
        if not self.answer.done():
            self.answer.set_exception(error)


async def find_counted(
    store: RoundStore, status: RoundStatus, *, participant_id: ParticipantId, digest: str, base_round: int
) -> Admission | None:
    """The admission of these very weights, from this very round, up to the round of `status`.

    Raises DuplicateContribution where other weights of this participant are in the round that collects.
    """
    rounds = range(base_round, min(status.number, base_round + MAX_STALENESS) + 1)
    for admission in await store.find_admission(status.task_id, participant_id, rounds=rounds):
        if admission.digest == digest and admission.base_round == base_round:
            return admission
        if admission.digest != digest and admission.round == status.number and status.state is State.COLLECTING:
            raise DuplicateContribution(participant_id=participant_id, round=status.number)
    return None
