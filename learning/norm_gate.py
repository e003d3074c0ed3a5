"""How far a contribution may change the model, judged by how far those before it did: what a task may ask for.

A contribution's norm is the length of what it changes, over all weights together. One whose
norm is more than `factor` times a quantile of the norms that were admitted lately is refused.

The gate is off where a task does not ask for it. It is for accidents and clumsy attacks (a
learning rate of 1000, a model that exploded): who sends half of all contributions decides the median,
and rules that withstand liars are in `learning.aggregation`. Knows no weights and no store.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from learning.refusals import InvalidTask, NormTooLarge

HISTORY = 256
"""Norms of admitted contributions that are remembered, of each task."""


@dataclass(frozen=True, slots=True)
class NormGate:
    """What norms are admitted.

    quantile      of the norms of the last contributions; above 0, at most 1
    factor        how many times that a norm may be; at least 1
    min_history   as long as fewer norms than that are known, everything is admitted

    Raises InvalidTask.
    """

    quantile: float = 0.5
    factor: float = 10.0
    min_history: int = 20

    def __post_init__(self) -> None:
        def check(holds: bool, name: str, problem: str) -> None:
            if not holds:
                raise InvalidTask(field=f"norm_gate.{name}", problem=problem)

        check(0 < self.quantile <= 1, "quantile", "must be above 0 and at most 1")
        check(1 <= self.factor <= 1e9, "factor", "must be at least 1 and at most 10^9")
        check(1 <= self.min_history <= HISTORY, "min_history", f"must be 1 to {HISTORY}")

    def check(self, norm: float, history: Sequence[float]) -> None:
        """Raises NormTooLarge. A history has no zeros: who changes nothing says nothing about the others."""
        if len(history) < self.min_history:
            return
        limit = self.factor * sorted(history)[math.ceil(self.quantile * len(history)) - 1]
        if norm > limit:
            raise NormTooLarge(norm=f"{norm:.4g}", limit=f"{limit:.4g}")
