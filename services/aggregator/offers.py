"""A contribution on its way to admission. Knows no sums and no store."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from blobstore.store import Buffer
from learning.federated import Admission, Contribution
from learning.ids import ParticipantId


@dataclass(slots=True, eq=False)
class Offered:
    """A contribution that has arrived whole and waits for its answer."""

    participant_id: ParticipantId
    digest: str
    base_round: int
    sample_count: int
    weights: Buffer
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
