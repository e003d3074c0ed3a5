"""Server optimizers against a plain implementation, bit by bit, and their behaviour at the edges."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from learning.aggregation import Aggregation, AggregationRule
from services.aggregator.rules.server_optimizers import Numbers, optimizer_of
from services.aggregator.rules.stepping import first_state, octets_of, stepped
from tests.services.aggregator.rules.plain_optimizers import NUMBERS, PlainModel

SIZE = 257


def blocks(mean: Numbers, size: int) -> Iterator[tuple[int, int, Numbers]]:
    for start in range(0, mean.size, size):
        yield start, min(start + size, mean.size), mean[start : start + size].copy()


def a_mean(round: int) -> Numbers:
    random = np.random.default_rng(round)
    mean = random.standard_normal(SIZE) * 10.0 ** random.integers(-6, 3, SIZE)
    mean[::7] = 0.0
    return mean


def first_weights() -> bytes:
    return np.random.default_rng(99).standard_normal(SIZE).astype("<f4").tobytes()


@pytest.mark.parametrize("rule", NUMBERS)
@pytest.mark.parametrize("block", [1, 100, 1000])
def test_a_trajectory_is_that_of_the_plain_implementation_whatever_the_blocks(rule: str, block: int) -> None:
    optimizer = optimizer_of(Aggregation(AggregationRule(rule)))
    assert optimizer is not None
    weights = first_weights()
    plain = PlainModel(rule, np.frombuffer(weights, dtype="<f4").tolist())
    state = first_state(optimizer, SIZE)
    for number in range(6):
        mean = a_mean(number)
        weights = bytes(stepped(optimizer, weights, blocks(mean, block), state))
        assert weights == plain.step(mean.tolist())
        assert bytes(octets_of(state)) == plain.state()


@pytest.mark.parametrize("rule", [rule for rule in AggregationRule if rule.value not in NUMBERS])
def test_other_rules_have_no_optimizer(rule: AggregationRule) -> None:
    assert optimizer_of(Aggregation(rule)) is None


def test_momentum_of_nothing_and_a_rate_of_one_is_the_mean() -> None:
    optimizer = optimizer_of(Aggregation(AggregationRule.FEDAVGM, momentum=0.0))
    assert optimizer is not None
    mean = np.array([0.5, -1.25, 3.0])
    base = np.array([1.0, 2.0, -4.0], dtype="<f4").tobytes()
    assert bytes(stepped(optimizer, base, blocks(mean, 2), first_state(optimizer, 3))) == mean.astype("<f4").tobytes()


@pytest.mark.parametrize("rule", NUMBERS)
def test_the_largest_weights_and_numbers_that_are_allowed_stay_finite(rule: str) -> None:
    smallest_tau = {} if rule == "fedavgm" else {"tau": 1e-12}
    optimizer = optimizer_of(Aggregation(AggregationRule(rule), server_learning_rate=1e6, **smallest_tau))
    assert optimizer is not None
    largest = float(np.finfo(np.float32).max)
    weights = np.array([largest, -largest, 0.0], dtype="<f4").tobytes()
    state = first_state(optimizer, 3)
    for sign in (-1.0, 1.0, 1.0, -1.0):
        weights = bytes(stepped(optimizer, weights, blocks(np.array([sign, -sign, sign]) * largest, 3), state))
        assert np.isfinite(np.frombuffer(weights, dtype="<f4")).all()
        assert np.isfinite(state).all()
