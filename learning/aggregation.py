"""How the server makes the next version of a task out of the contributions of a round: chosen by the task.

The choice and its numbers; the arithmetic is in `services.aggregator.rules`. Impossible
choices, and numbers that the chosen rule does not know, cannot be constructed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from learning.refusals import InvalidTask


class AggregationRule(Enum):
    """What is made of the contributions of a round."""

    MEAN = "mean"
    FEDAVGM = "fedavgm"
    FEDADAM = "fedadam"
    FEDYOGI = "fedyogi"
    FEDADAGRAD = "fedadagrad"


_ADAPTIVE = {"beta1": 0.9, "beta2": 0.99, "tau": 1e-3}

DEFAULTS: Mapping[AggregationRule, Mapping[str, float]] = MappingProxyType(
    {
        AggregationRule.MEAN: {},
        AggregationRule.FEDAVGM: {"server_learning_rate": 1.0, "momentum": 0.9},
        AggregationRule.FEDADAM: {"server_learning_rate": 0.01, **_ADAPTIVE},
        AggregationRule.FEDYOGI: {"server_learning_rate": 0.01, **_ADAPTIVE},
        AggregationRule.FEDADAGRAD: {"server_learning_rate": 0.1, "beta1": 0.0, "tau": 1e-3},
    }
)
"""The numbers that each rule knows, and what they are where a task does not say. Those of the server optimizers are from
their paper (arXiv 2003.00295), except for the learning rates: it searches for them anew for each task."""

_MIN_TAU, _MAX_TAU, _MAX_LEARNING_RATE = 1e-12, 1.0, 1e6
"""Within these, no step of any rule leaves the range of a double."""


@dataclass(frozen=True, slots=True)
class Aggregation:
    """A rule and its numbers; None: the default of the rule.

    server_learning_rate    length of the server's step along what the round learned
    momentum                share of the last step that is kept
    beta1, beta2            share of the mean of the steps, and of their squares, that is kept
    tau                     the larger, the less the step adapts to each weight

    Raises InvalidTask.
    """

    rule: AggregationRule = AggregationRule.MEAN
    server_learning_rate: float | None = None
    momentum: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    tau: float | None = None

    def __post_init__(self) -> None:
        known = DEFAULTS[self.rule]
        for name in (name for name in self.__dataclass_fields__ if name != "rule"):
            value = getattr(self, name)
            if value is None:
                continue
            _check(name in known, name, f"is nothing that the rule {self.rule.value} knows")
            _check(math.isfinite(value), name, "must be finite")
        rate, tau = self.server_learning_rate, self.tau
        _check(rate is None or 0 < rate <= _MAX_LEARNING_RATE, "server_learning_rate", "must be above 0, at most 10^6")
        for name in ("momentum", "beta1", "beta2"):
            share = getattr(self, name)
            _check(share is None or 0 <= share < 1, name, "must be at least 0 and below 1")
        _check(tau is None or _MIN_TAU <= tau <= _MAX_TAU, "tau", "must be at least 10^-12 and at most 1")

    def number(self, name: str) -> float:
        """What the task says, or the default of its rule."""
        value = getattr(self, name)
        return float(DEFAULTS[self.rule][name] if value is None else value)


def _check(holds: bool, name: str, problem: str) -> None:
    if not holds:
        raise InvalidTask(field=f"aggregation.{name}", problem=problem)
