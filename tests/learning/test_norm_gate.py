"""How far a contribution may change the model."""

from __future__ import annotations

import math
from typing import Any

import pytest

from learning.norm_gate import HISTORY, NormGate
from learning.refusals import InvalidTask, NormTooLarge

TENS = [float(10 * n) for n in range(10, 0, -1)]


@pytest.mark.parametrize(("quantile", "limit"), [(0.05, 20.0), (0.1, 20.0), (0.5, 100.0), (0.51, 120.0), (1.0, 200.0)])
def test_the_limit_is_a_multiple_of_a_quantile(quantile: float, limit: float) -> None:
    gate = NormGate(quantile=quantile, factor=2.0, min_history=10)
    gate.check(limit, TENS)
    with pytest.raises(NormTooLarge) as refusal:
        gate.check(math.nextafter(limit, math.inf), TENS)
    assert refusal.value.variables == {"norm": f"{limit:.4g}", "limit": f"{limit:.4g}"}


def test_as_long_as_little_is_known_everything_is_admitted() -> None:
    NormGate(min_history=11).check(1e30, TENS)
    NormGate().check(1e30, [])
    with pytest.raises(NormTooLarge):
        NormGate(min_history=10).check(1e30, TENS)


@pytest.mark.parametrize(
    ("numbers", "field"),
    [
        ({"quantile": 0.0}, "quantile"),
        ({"quantile": 1.1}, "quantile"),
        ({"quantile": math.nan}, "quantile"),
        ({"factor": 0.9}, "factor"),
        ({"factor": math.inf}, "factor"),
        ({"factor": math.nan}, "factor"),
        ({"min_history": 0}, "min_history"),
        ({"min_history": HISTORY + 1}, "min_history"),
    ],
)
def test_an_impossible_gate_cannot_be_constructed(numbers: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidTask) as refusal:
        NormGate(**numbers)
    assert refusal.value.variables["field"] == f"norm_gate.{field}"
