"""Aggregations that can and cannot be chosen."""

from __future__ import annotations

import math
from typing import Any

import pytest

from learning.aggregation import DEFAULTS, Aggregation, AggregationRule
from learning.refusals import InvalidTask

IMPOSSIBLE: list[tuple[AggregationRule, dict[str, Any]]] = [
    (AggregationRule.MEAN, {"server_learning_rate": 1.0}),
    (AggregationRule.FEDAVGM, {"beta1": 0.9}),
    (AggregationRule.FEDAVGM, {"momentum": 1.0}),
    (AggregationRule.FEDAVGM, {"momentum": -0.1}),
    (AggregationRule.FEDAVGM, {"momentum": math.nan}),
    (AggregationRule.FEDAVGM, {"server_learning_rate": 0.0}),
    (AggregationRule.FEDAVGM, {"server_learning_rate": 1e7}),
    (AggregationRule.FEDADAM, {"server_learning_rate": math.inf}),
    (AggregationRule.FEDADAM, {"beta1": 1.0}),
    (AggregationRule.FEDYOGI, {"beta2": 1.0}),
    (AggregationRule.FEDYOGI, {"tau": 0.0}),
    (AggregationRule.FEDADAM, {"tau": 2.0}),
    (AggregationRule.FEDADAGRAD, {"beta2": 0.5}),
    (AggregationRule.MEDIAN, {"trim_fraction": 0.1}),
    (AggregationRule.TRIMMED_MEAN, {"trim_fraction": 0.5}),
    (AggregationRule.TRIMMED_MEAN, {"trim_fraction": -0.1}),
    (AggregationRule.CENTERED_CLIPPING, {"radius": 0.0}),
    (AggregationRule.CENTERED_CLIPPING, {"radius": 1e31}),
    (AggregationRule.CENTERED_CLIPPING, {"radius_quantile": 1.0}),
    (AggregationRule.CENTERED_CLIPPING, {"radius_quantile": 0.5, "radius": 1.0}),
    (AggregationRule.CENTERED_CLIPPING, {"iterations": 0}),
    (AggregationRule.CENTERED_CLIPPING, {"iterations": 101}),
]


@pytest.mark.parametrize(("rule", "numbers"), IMPOSSIBLE)
def test_impossible_aggregations_cannot_be_constructed(rule: AggregationRule, numbers: dict[str, Any]) -> None:
    with pytest.raises(InvalidTask) as refusal:
        Aggregation(rule, **numbers)
    assert refusal.value.variables["field"] == f"aggregation.{next(iter(numbers))}"


@pytest.mark.parametrize("rule", AggregationRule)
def test_every_rule_takes_its_defaults_as_numbers(rule: AggregationRule) -> None:
    said, unsaid = Aggregation(rule, **DEFAULTS[rule]), Aggregation(rule)
    names = [name for name, default in DEFAULTS[rule].items() if default is not None]
    assert [said.number(name) for name in names] == [unsaid.number(name) for name in names]


def test_what_a_task_says_goes_before_the_default() -> None:
    aggregation = Aggregation(AggregationRule.FEDADAM, beta1=0.0)
    assert (aggregation.number("beta1"), aggregation.number("beta2")) == (0.0, 0.99)
