"""Central differential privacy as a task asks for it: how far one participant may move a round, and for how long.

Numbers and their bounds only. What ε they come to is `privacy.accountant`; how changes are
clipped and noise is added, `services.aggregator.rules.private_mean`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from learning.refusals import InvalidTask

MIN_NORM, MAX_NORM = 1e-30, 1e30
MIN_MULTIPLIER, MAX_MULTIPLIER = 0.01, 1e4
"""Within these, neither the grid of the sums nor the range of a double is left."""
MIN_DELTA = 1e-15
MAX_BUDGET = 1e6


@dataclass(frozen=True, slots=True)
class CentralPrivacy:
    """What a participant's contributions may give away, to all who see the versions.

    clipping_norm     what a contribution changes is shortened to this length, over all weights together
    noise_multiplier  standard deviation of the noise on the sum of a round, in clipping norms
    delta             the δ at which ε is stated
    epsilon_budget    the task stops before its versions come to a greater ε

    Raises InvalidTask.
    """

    clipping_norm: float
    noise_multiplier: float
    delta: float
    epsilon_budget: float

    def __post_init__(self) -> None:
        def check(holds: bool, name: str, problem: str) -> None:
            if not holds:
                raise InvalidTask(field=f"aggregation.privacy.{name}", problem=problem)

        check(
            MIN_NORM <= self.clipping_norm <= MAX_NORM,
            "clipping_norm",
            "must be above 0 (at least 10^-30), at most 10^30",
        )
        check(
            MIN_MULTIPLIER <= self.noise_multiplier <= MAX_MULTIPLIER,
            "noise_multiplier",
            "must be above 0 (at least 0.01), at most 10^4",
        )
        check(MIN_DELTA <= self.delta < 1, "delta", "must be above 0 (at least 10^-15) and below 1")
        check(
            math.isfinite(self.epsilon_budget) and 0 < self.epsilon_budget <= MAX_BUDGET,
            "epsilon_budget",
            "must be above 0, at most 10^6",
        )
