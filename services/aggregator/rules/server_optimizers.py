"""Server optimizers: a step from the base version along what a round learned, as large as earlier rounds suggest.

From Reddi et al., "Adaptive Federated Optimization" (arXiv 2003.00295), algorithm 2.
With Δ the mean of a round minus its base version, η the server's learning rate and
everything weight by weight:

    fedavgm       m ← momentum · m + Δ                     next = base + η · m
    fedadam       m ← β₁ · m + (1 − β₁) · Δ                next = base + η · m / (√v + τ)
                  v ← β₂ · v + (1 − β₂) · Δ²
    fedyogi       as fedadam, with v ← v − (1 − β₂) · Δ² · sign(v − Δ²)
    fedadagrad    as fedadam, with v ← v + Δ²

At first m is 0 and v is τ². Everything is float64, one rounding after each step, in the order
written here (β₁ · m before (1 − β₁) · Δ is added; Δ · Δ first); NumPy's elementwise functions do the same on
every machine. There is no sum over weights anywhere, so that blocks leave no trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from learning.aggregation import Aggregation, AggregationRule

Numbers = NDArray[np.float64]


class ServerOptimizer(Protocol):
    """What becomes of some weights of a model."""

    @property
    def first_state(self) -> Sequence[float]:
        """For each number that is kept per weight from round to round: what it is at first."""

    def next(self, base: Numbers, mean: Numbers, state: Sequence[Numbers]) -> Numbers:
        """The next weights. Behaviour: changes `state` to what the next round begins with, and nothing else."""


def optimizer_of(aggregation: Aggregation) -> ServerOptimizer | None:
    """The optimizer that a task asks for; None where it asks for none."""
    match aggregation.rule:
        case AggregationRule.FEDAVGM:
            return Momentum(aggregation)
        case AggregationRule.FEDADAM | AggregationRule.FEDYOGI | AggregationRule.FEDADAGRAD:
            return Adaptive(aggregation)
        case _:
            return None


class Momentum:
    """fedavgm."""

    def __init__(self, aggregation: Aggregation) -> None:
        self._rate = aggregation.number("server_learning_rate")
        self._momentum = aggregation.number("momentum")
        self.first_state = (0.0,)

    def next(self, base: Numbers, mean: Numbers, state: Sequence[Numbers]) -> Numbers:
        (steps,) = state
        np.multiply(steps, self._momentum, out=steps)
        np.add(steps, mean - base, out=steps)
        return base + self._rate * steps


class Adaptive:
    """fedadam, fedyogi, fedadagrad."""

    def __init__(self, aggregation: Aggregation) -> None:
        self._rule = aggregation.rule
        self._rate = aggregation.number("server_learning_rate")
        self._beta1 = aggregation.number("beta1")
        self._beta2 = 0.0 if self._rule is AggregationRule.FEDADAGRAD else aggregation.number("beta2")
        self._tau = aggregation.number("tau")
        self.first_state = (0.0, self._tau * self._tau)

    def next(self, base: Numbers, mean: Numbers, state: Sequence[Numbers]) -> Numbers:
        steps, squares = state
        learned = mean - base
        np.multiply(steps, self._beta1, out=steps)
        np.add(steps, (1 - self._beta1) * learned, out=steps)
        self._spread(squares, learned * learned)
        return base + self._rate * steps / (np.sqrt(squares) + self._tau)

    def _spread(self, squares: Numbers, learned: Numbers) -> None:
        match self._rule:
            case AggregationRule.FEDADAGRAD:
                np.add(squares, learned, out=squares)
            case AggregationRule.FEDYOGI:
                np.subtract(squares, (1 - self._beta2) * learned * np.sign(squares - learned), out=squares)
            case _:
                np.multiply(squares, self._beta2, out=squares)
                np.add(squares, (1 - self._beta2) * learned, out=squares)
