"""The policy of a task: when its rounds close. Impossible policies cannot be constructed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from learning.refusals import InvalidPolicy

MAX_TOTAL_WEIGHT = 2**40
MAX_DEADLINE_S = 30 * 24 * 3600.0
MAX_STALENESS = 64


@dataclass(frozen=True, slots=True)
class Policy:
    """When the rounds of a task close: four numbers (design section 4.1) and two caps.

    min_participants    below it no round closes
    quorum_share        share of the present participants (and of those who contributed and left) that closes it, or
    quorum_count        number of contributions that closes it; exactly one of the two is set
    deadline_s          seconds after the first contribution, after which it closes with what is there
    staleness_weights   integer weight of a contribution that is 0, 1, 2, … rounds late; later ones are refused
    max_total_weight    cap on the sum of the weights of a round
    max_samples         samples that count of one contribution, whatever its sender says; None: as many as leave room
                        for the others without whom the round cannot close

    Raises InvalidPolicy.
    """

    min_participants: int = 2
    quorum_share: float | None = 1.0
    quorum_count: int | None = None
    deadline_s: float = 10.0
    staleness_weights: tuple[int, ...] = (2, 1)
    max_total_weight: int = 2**20
    max_samples: int | None = None

    def __post_init__(self) -> None:
        def check(holds: bool, field: str, problem: str) -> None:
            if not holds:
                raise InvalidPolicy(field=field, problem=problem)

        check(1 <= self.min_participants <= 2**31, "min_participants", "must be at least 1 and at most 2^31")
        check((self.quorum_share is None) != (self.quorum_count is None), "quorum", "give a share or a count, not both")
        check(self.quorum_share is None or 0 < self.quorum_share <= 1, "quorum_share", "must be above 0 and at most 1")
        check(self.quorum_count is None or 1 <= self.quorum_count <= 2**31, "quorum_count", "must be at least 1")
        check(
            math.isfinite(self.deadline_s) and 0 < self.deadline_s <= MAX_DEADLINE_S,
            "deadline",
            "must be above 0 and at most 30 days",
        )
        weights = self.staleness_weights
        check(1 <= len(weights) <= MAX_STALENESS, "staleness_weights", "give 1 to 64 weights, from 0 rounds late on")
        check(all(weight >= 1 for weight in weights), "staleness_weights", "every weight must be at least 1")
        check(list(weights) == sorted(weights, reverse=True), "staleness_weights", "a later one cannot weigh more")
        check(1 <= self.max_total_weight <= MAX_TOTAL_WEIGHT, "max_total_weight", "must be at least 1 and at most 2^40")
        check(
            self.max_total_weight >= self.fewest_contributions * weights[0],
            "max_total_weight",
            "is reached before enough participants can contribute, so no round could ever close",
        )
        check(
            self.max_samples is None or 1 <= self.max_samples <= self.samples_within(self.max_total_weight),
            "max_samples",
            "must be at least 1, and leave room below max_total_weight for all without whom no round could close",
        )

    @property
    def fewest_contributions(self) -> int:
        """Contributions without which the round cannot close before its deadline."""
        return max(self.min_participants, self.quorum_count or 0)

    def samples_within(self, weight_cap: int) -> int:
        """Samples that may count of one contribution, so that one sender alone cannot take the room of those without
        whom the round cannot close."""
        most = max(weight_cap // (self.fewest_contributions * self.staleness_weights[0]), 1)
        return most if self.max_samples is None else min(self.max_samples, most)

    @property
    def max_staleness(self) -> int:
        """Rounds a contribution may be late."""
        return len(self.staleness_weights) - 1
