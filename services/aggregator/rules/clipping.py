"""Centred clipping: nobody moves the model further than a radius. Pure: NumPy, no store.

From Karimireddy et al., "Learning from History for Byzantine Robust Optimization" (arXiv
2012.10333), around the base version instead of a momentum, which
would be far too small in the first rounds where contributions are whole weights. With x the
contributions, w their weights, v the base version at first, and ‖·‖ over all weights of the model:

    radius     as the task says; or the smallest of the n lengths ‖x − v‖ of the first iteration that
               ⌈quantile · n⌉ of them do not exceed, each counted once
    repeat     v ← v + Σ w · (x − v) · min(1, radius / ‖x − v‖) / Σ w

Who says that it has more samples pulls more, and never further than the radius.

float64, contributions one after the other in their order. A square sum is taken by
adding halves of a block, and the exactly rounded sum of the blocks, so that no machine adds in another order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from services.aggregator.rules.weight_by_weight import Numbers
from services.aggregator.sum_plan import BLOCK, Weights


class Length:
    """‖x − v‖, taken in pieces; all but the last are multiples of a block."""

    def __init__(self, around: Numbers) -> None:
        self._around = around
        self._squares: list[float] = []

    def add(self, start: int, piece: Weights) -> None:
        for at in range(0, piece.size, BLOCK):
            block = piece[at : at + BLOCK]
            difference = block - self._around[start + at : start + at + block.size]
            self._squares.append(square_sum(difference))

    def value(self) -> float:
        return math.sqrt(math.fsum(self._squares))


class Pull:
    """Σ w · (x − v) · min(1, radius / ‖x − v‖) / Σ w, one contribution after the other, each in pieces."""

    def __init__(self, around: Numbers, *, radius: float, total_weight: int) -> None:
        self._around = around
        self._radius = radius
        self._total_weight = total_weight
        self._sum = np.zeros_like(around)

    def add(self, start: int, piece: Weights, *, weight: int, length: float) -> None:
        share = weight / self._total_weight
        if length > self._radius:
            share *= self._radius / length
        for at in range(0, piece.size, BLOCK):
            block = piece[at : at + BLOCK]
            place = slice(start + at, start + at + block.size)
            np.add(self._sum[place], (block - self._around[place]) * share, out=self._sum[place])

    def apply(self) -> None:
        """Moves v. Nothing may be added any more."""
        np.add(self._around, self._sum, out=self._around)


def quantile(lengths: Sequence[float], share: float) -> float:
    """The smallest that ⌈share · n⌉ of them do not exceed. The share is taken as people write it."""
    return sorted(lengths)[math.ceil(Fraction(str(share)) * len(lengths)) - 1]


def square_sum(numbers: Numbers) -> float:
    """Of a block at most: halves are added, so that no machine adds in another order."""
    numbers, total = numbers * numbers, 0.0
    while numbers.size > 1:
        half = numbers.size // 2
        if numbers.size % 2:
            total += float(numbers[-1])
        numbers = numbers[:half] + numbers[half : 2 * half]
    return total + (float(numbers[0]) if numbers.size else 0.0)
