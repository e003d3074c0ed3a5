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

from learning.privacy import CentralPrivacy
from learning.refusals import InvalidTask


class AggregationRule(Enum):
    """What is made of the contributions of a round."""

    MEAN = "mean"
    FEDAVGM = "fedavgm"
    FEDADAM = "fedadam"
    FEDYOGI = "fedyogi"
    FEDADAGRAD = "fedadagrad"
    MEDIAN = "median"
    TRIMMED_MEAN = "trimmed_mean"
    CENTERED_CLIPPING = "centered_clipping"


_ADAPTIVE = {"beta1": 0.9, "beta2": 0.99, "tau": 1e-3}

DEFAULTS: Mapping[AggregationRule, Mapping[str, float | None]] = MappingProxyType(
    {
        AggregationRule.MEAN: {},
        AggregationRule.FEDAVGM: {"server_learning_rate": 1.0, "momentum": 0.9},
        AggregationRule.FEDADAM: {"server_learning_rate": 0.01, **_ADAPTIVE},
        AggregationRule.FEDYOGI: {"server_learning_rate": 0.01, **_ADAPTIVE},
        AggregationRule.FEDADAGRAD: {"server_learning_rate": 0.1, "beta1": 0.0, "tau": 1e-3},
        AggregationRule.MEDIAN: {},
        AggregationRule.TRIMMED_MEAN: {"trim_fraction": 0.1},
        AggregationRule.CENTERED_CLIPPING: {"radius": None, "radius_quantile": 0.5, "iterations": 1},
    }
)
"""The numbers that each rule knows, and what they are where a task does not say; None: nothing. Those of the server
optimizers are from their paper (arXiv 2003.00295), but for the learning rates: it searches for them for each task."""

MAX_ITERATIONS = 100
"""Each goes twice over all contributions of the round."""

_MIN_TAU, _MAX_TAU, _MAX_LEARNING_RATE, _MAX_RADIUS = 1e-12, 1.0, 1e6, 1e30
"""Within these, no step of any rule leaves the range of a double."""


@dataclass(frozen=True, slots=True)
class Aggregation:
    """A rule and its numbers; None: the default of the rule.

    server_learning_rate    length of the server's step along what the round learned
    momentum                share of the last step that is kept
    beta1, beta2            share of the mean of the steps, and of their squares, that is kept
    tau                     the larger, the less the step adapts to each weight
    trim_fraction           share of the contributions that is left out at each end, weight by weight
    radius                  what differs from the current model by more is shortened to this length; or
    radius_quantile         this quantile of the lengths of the round is the radius
    iterations              how often that is done, each time around what came out before
    privacy                 changes are clipped and noise is added before anything else is done with their mean

    Raises InvalidTask.
    """

    rule: AggregationRule = AggregationRule.MEAN
    server_learning_rate: float | None = None
    momentum: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    tau: float | None = None
    trim_fraction: float | None = None
    radius: float | None = None
    radius_quantile: float | None = None
    iterations: int | None = None
    privacy: CentralPrivacy | None = None

    def __post_init__(self) -> None:
        known = DEFAULTS[self.rule]
        for name in (name for name in self.__dataclass_fields__ if name not in ("rule", "privacy")):
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
        trim, radius, quantile, iterations = self.trim_fraction, self.radius, self.radius_quantile, self.iterations
        _check(trim is None or 0 <= trim < 0.5, "trim_fraction", "must be at least 0 and below 0.5")
        _check(radius is None or 0 < radius <= _MAX_RADIUS, "radius", "must be above 0, at most 10^30")
        _check(quantile is None or 0 < quantile < 1, "radius_quantile", "must be above 0 and below 1")
        _check(radius is None or quantile is None, "radius_quantile", "cannot be given together with a radius")
        _check(iterations is None or 1 <= iterations <= MAX_ITERATIONS, "iterations", "must be 1 to 100")
        _check(
            self.privacy is None or not self.needs_contributions,
            "privacy",
            f"cannot be combined with the rule {self.rule.value}: how far one contribution can move its result has no "
            "bound that noise could hide; choose mean, or a server optimizer",
        )

    @property
    def needs_contributions(self) -> bool:
        """Whether every single contribution is needed, and their sum is not enough."""
        return self.rule in (
            AggregationRule.MEDIAN,
            AggregationRule.TRIMMED_MEAN,
            AggregationRule.CENTERED_CLIPPING,
        )

    def number(self, name: str) -> float:
        """What the task says, or the default of its rule."""
        value = getattr(self, name)
        value = DEFAULTS[self.rule][name] if value is None else value
        assert value is not None, f"{name} has no default"
        return float(value)


def _check(holds: bool, name: str, problem: str) -> None:
    if not holds:
        raise InvalidTask(field=f"aggregation.{name}", problem=problem)
