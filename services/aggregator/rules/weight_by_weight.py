"""Robust rules that look at one weight of the model at a time: median and trimmed mean. Pure: NumPy, no store.

Of n contributions, for each weight of the model on its own:

    median          the middle one of the n values; of two middle ones, half of their sum
    trimmed mean    the ⌈fraction · n⌉ largest and as many smallest are left out (at most so many that one is
                    left); the weighted mean of the others

The median counts every contribution once: a weight is what a sender says of its
own samples, and who lies about it must not become the majority. The trimmed mean may heed
weights, for whatever they are it stays between values that were not left out.

float64, and sums value by value from the smallest to the largest; of equal values, in the
order of the rows. So the same rows in the same order give the same bytes, in any blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from learning.aggregation import Aggregation, AggregationRule
from services.aggregator.sum_plan import Weights

Numbers = NDArray[np.float64]


def combined(aggregation: Aggregation, values: Weights, weights: Sequence[int]) -> Numbers:
    """What becomes of some weights of a model; `values` has a row, and `weights` a number, for each contribution."""
    if aggregation.rule is AggregationRule.MEDIAN:
        return median(values)
    assert aggregation.rule is AggregationRule.TRIMMED_MEAN
    return trimmed_mean(values, weights, cut=left_out(len(weights), aggregation.number("trim_fraction")))


def median(values: Weights) -> Numbers:
    ordered = np.sort(values, axis=0)
    count = len(ordered)
    middle: Numbers = ordered[(count - 1) // 2].astype(np.float64)
    np.add(middle, ordered[count // 2], out=middle)
    return np.divide(middle, 2, out=middle)


def trimmed_mean(values: Weights, weights: Sequence[int], *, cut: int) -> Numbers:
    """`cut`: how many are left out at each end."""
    order = np.argsort(values, axis=0, kind="stable")
    total, total_weight = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    of_row = np.array(weights, dtype=np.float64)
    for row in order[cut : len(order) - cut]:
        weight = of_row[row]
        np.add(total, np.take_along_axis(values, row[np.newaxis], axis=0)[0] * weight, out=total)
        np.add(total_weight, weight, out=total_weight)
    return total / total_weight


def left_out(count: int, fraction: float) -> int:
    """Contributions that are left out at each end. The fraction is taken as people write it."""
    return min(math.ceil(Fraction(str(fraction)) * count), (count - 1) // 2)
