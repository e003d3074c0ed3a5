"""Median, trimmed mean and centred clipping as functions of numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from learning.aggregation import Aggregation, AggregationRule
from services.aggregator.rules.clipping import Length, Pull, quantile
from services.aggregator.rules.weight_by_weight import combined, left_out, median, trimmed_mean
from services.aggregator.sum_plan import BLOCK
from tests.services.aggregator.rules import plain_robust


def rows(count: int, width: int = 33) -> np.ndarray:
    values = np.random.default_rng(count).standard_normal((count, width)).astype("<f4")
    values[:, ::5] = np.float32(0.25)  # all the same
    return values


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_the_median_is_the_middle_one_or_between_the_two_middle_ones(count: int) -> None:
    values = rows(count)
    expected = plain_robust.median([(row.tolist(), 1) for row in values])
    assert median(values).astype("<f4").tobytes() == expected


@pytest.mark.parametrize(("count", "cut"), [(1, 0), (3, 0), (3, 1), (6, 2), (7, 3)])
def test_the_trimmed_mean_is_the_weighted_mean_of_what_is_not_left_out(count: int, cut: int) -> None:
    values, weights = rows(count), list(range(1, count + 1))
    expected = plain_robust.trimmed_mean(
        [(row.tolist(), weight) for row, weight in zip(values, weights, strict=True)], cut=cut
    )
    assert trimmed_mean(values, weights, cut=cut).astype("<f4").tobytes() == expected


@pytest.mark.parametrize(
    ("count", "fraction", "cut"),
    [(1, 0.4, 0), (2, 0.4, 0), (3, 0.1, 1), (10, 0.1, 1), (11, 0.1, 2), (100, 0.07, 7), (4, 0.49, 1), (9, 0.0, 0)],
)
def test_a_share_is_rounded_up_and_always_leaves_somebody(count: int, fraction: float, cut: int) -> None:
    assert left_out(count, fraction) == cut


@pytest.mark.parametrize("rule", [AggregationRule.MEDIAN, AggregationRule.TRIMMED_MEAN])
def test_blocks_leave_no_trace(rule: AggregationRule) -> None:
    values, weights = rows(5), [3, 1, 2, 5, 4]
    whole = combined(Aggregation(rule), values, weights)
    pieces = [combined(Aggregation(rule), values[:, start : start + 4], weights) for start in range(0, 33, 4)]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


@pytest.mark.parametrize(
    ("share", "expected"), [(0.01, 1.0), (0.25, 1.0), (0.26, 2.0), (0.5, 2.0), (0.75, 3.0), (0.99, 4.0)]
)
def test_a_quantile_is_one_of_the_lengths(share: float, expected: float) -> None:
    assert quantile([3.0, 1.0, 4.0, 2.0], share) == expected


@pytest.mark.parametrize("size", [1, 7, BLOCK, 2 * BLOCK + 3])
def test_a_length_is_the_same_in_pieces_of_whole_blocks(size: int) -> None:
    random = np.random.default_rng(size)
    around, values = random.standard_normal(size), random.standard_normal(size).astype("<f4")
    whole, pieces = Length(around), Length(around)
    whole.add(0, values)
    for start in range(0, size, BLOCK):
        pieces.add(start, values[start : start + BLOCK])
    assert whole.value() == pieces.value()
    assert math.isclose(whole.value(), float(np.linalg.norm(values - around)), rel_tol=1e-12)


def test_nobody_pulls_further_than_the_radius() -> None:
    around = np.zeros(4)
    far = np.array([3000.0, 0.0, 4000.0, 0.0], dtype="<f4")
    pull = Pull(around, radius=0.5, total_weight=1)
    pull.add(0, far, weight=1, length=5000.0)
    pull.apply()
    assert around.tolist() == [0.3, 0.0, 0.4, 0.0]
