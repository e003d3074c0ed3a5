"""Which policies can be, and that the others cannot be constructed."""

from __future__ import annotations

import math
from typing import Any

import pytest

from learning.policy import MAX_DEADLINE_S, MAX_TOTAL_WEIGHT, Policy
from learning.refusals import InvalidPolicy

COUNT: dict[str, Any] = {"quorum_share": None, "quorum_count": 5}

POSSIBLE: list[dict[str, Any]] = [
    {},
    COUNT,
    {"min_participants": 1},
    {"quorum_share": 5e-324},
    {"deadline_s": 5e-324},
    {"deadline_s": MAX_DEADLINE_S},
    {"staleness_weights": (1,)},
    {"staleness_weights": (3, 3, 1)},
    {"staleness_weights": (2,) * 64},
    {"max_total_weight": MAX_TOTAL_WEIGHT},
    {"max_total_weight": 4},
    {**COUNT, "max_total_weight": 10},
    {"min_participants": 2**31, "max_total_weight": 2**32},
    {"max_samples": 1},
    {"max_samples": 2**18},
    {**COUNT, "max_samples": 2, "max_total_weight": 20},
]

IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"min_participants": 0}, "min_participants"),
    ({"min_participants": 2**31 + 1}, "min_participants"),
    ({"quorum_count": 5}, "quorum"),
    ({"quorum_share": None}, "quorum"),
    ({"quorum_share": 0.0}, "quorum_share"),
    ({"quorum_share": -0.5}, "quorum_share"),
    ({"quorum_share": 1.0000001}, "quorum_share"),
    ({"quorum_share": math.nan}, "quorum_share"),
    ({"quorum_share": math.inf}, "quorum_share"),
    ({"quorum_share": None, "quorum_count": 0}, "quorum_count"),
    ({"quorum_share": None, "quorum_count": 2**31 + 1}, "quorum_count"),
    ({"deadline_s": 0.0}, "deadline"),
    ({"deadline_s": -1.0}, "deadline"),
    ({"deadline_s": math.nan}, "deadline"),
    ({"deadline_s": math.inf}, "deadline"),
    ({"deadline_s": MAX_DEADLINE_S + 1}, "deadline"),
    ({"staleness_weights": ()}, "staleness_weights"),
    ({"staleness_weights": (1,) * 65}, "staleness_weights"),
    ({"staleness_weights": (2, 0)}, "staleness_weights"),
    ({"staleness_weights": (1, 2)}, "staleness_weights"),
    ({"max_total_weight": 0}, "max_total_weight"),
    ({"max_total_weight": MAX_TOTAL_WEIGHT + 1}, "max_total_weight"),
    ({"max_total_weight": 3}, "max_total_weight"),
    ({**COUNT, "max_total_weight": 9}, "max_total_weight"),
    ({"max_samples": 0}, "max_samples"),
    ({"max_samples": 2**18 + 1}, "max_samples"),
    ({**COUNT, "max_samples": 3, "max_total_weight": 20}, "max_samples"),
]


@pytest.mark.parametrize("settings", POSSIBLE)
def test_a_possible_policy_keeps_its_numbers(settings: dict[str, Any]) -> None:
    policy = Policy(**settings)
    assert {name: getattr(policy, name) for name in settings} == settings


@pytest.mark.parametrize(("settings", "field"), IMPOSSIBLE)
def test_an_impossible_policy_cannot_be_constructed(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidPolicy) as refusal:
        Policy(**settings)
    assert refusal.value.variables["field"] == field
    assert refusal.value.variables["problem"]


def test_a_policy_knows_what_it_takes_to_close_a_round() -> None:
    assert Policy(min_participants=3).fewest_contributions == 3
    assert Policy(min_participants=3, quorum_share=None, quorum_count=2).fewest_contributions == 3
    assert Policy(min_participants=3, quorum_share=None, quorum_count=5).fewest_contributions == 5


def test_a_policy_knows_how_late_a_contribution_may_be() -> None:
    assert Policy(staleness_weights=(4,)).max_staleness == 0
    assert Policy(staleness_weights=(4, 2, 1)).max_staleness == 2


def test_one_contribution_never_takes_the_room_of_those_without_whom_the_round_cannot_close() -> None:
    assert Policy().samples_within(2**20) == 2**18
    assert Policy(max_samples=60).samples_within(2**20) == 60
    assert Policy(min_participants=1, quorum_share=None, quorum_count=1000).samples_within(2**20) == 524
    assert Policy().samples_within(1) == 1
