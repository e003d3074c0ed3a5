"""Privacy that can and cannot be asked for."""

from __future__ import annotations

import math
from typing import Any

import pytest

from learning.aggregation import Aggregation, AggregationRule
from learning.privacy import CentralPrivacy
from learning.refusals import InvalidTask

GOOD: dict[str, Any] = {"clipping_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-5, "epsilon_budget": 8.0}

IMPOSSIBLE = [
    ("clipping_norm", 0.0),
    ("clipping_norm", -1.0),
    ("clipping_norm", math.inf),
    ("clipping_norm", math.nan),
    ("noise_multiplier", 0.0),
    ("noise_multiplier", -1.0),
    ("noise_multiplier", 0.009),
    ("noise_multiplier", 1.1e4),
    ("noise_multiplier", math.nan),
    ("delta", 0.0),
    ("delta", 1.0),
    ("delta", -1e-5),
    ("delta", 1e-16),
    ("delta", math.nan),
    ("epsilon_budget", 0.0),
    ("epsilon_budget", math.inf),
    ("epsilon_budget", math.nan),
]


@pytest.mark.parametrize(("name", "value"), IMPOSSIBLE)
def test_numbers_without_a_guarantee_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(InvalidTask) as refused:
        CentralPrivacy(**{**GOOD, name: value})
    assert refused.value.variables["field"] == f"aggregation.privacy.{name}"


@pytest.mark.parametrize("rule", list(AggregationRule))
def test_rules_that_no_noise_can_cover_are_refused(rule: AggregationRule) -> None:
    if rule in (AggregationRule.MEDIAN, AggregationRule.TRIMMED_MEAN, AggregationRule.CENTERED_CLIPPING):
        with pytest.raises(InvalidTask, match=f"aggregation.privacy: cannot be combined with the rule {rule.value}"):
            Aggregation(rule, privacy=CentralPrivacy(**GOOD))
    else:
        assert Aggregation(rule, privacy=CentralPrivacy(**GOOD)).privacy == CentralPrivacy(**GOOD)
