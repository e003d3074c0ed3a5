"""Policies in uploaded tasks."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.dialects.policy_fields import read_policy
from learning.policy import Policy
from learning.presets import Preset, policy_of
from learning.refusals import InvalidTask


def test_a_policy_is_read_with_its_preset_and_numbers_of_its_own() -> None:
    document = {"preset": "buffered-asynchronous", "quorumCount": 20, "max_samples": 500, "deadline_s": "2.5"}
    assert read_policy(document, min_participants=3) == policy_of(
        Preset.BUFFERED_ASYNCHRONOUS, min_participants=3, quorum_count=20, max_samples=500, deadline_s=2.5
    )
    assert read_policy({"preset": "SYNCHRONOUS"}, min_participants=2) == policy_of(Preset.SYNCHRONOUS)


def test_what_a_round_shows_can_be_uploaded_again() -> None:
    shown = {
        "min_participants": 4,
        "quorum_share": 0.5,
        "quorum_count": None,
        "deadline_s": 12.0,
        "staleness_weights": [4, 2],
        "max_total_weight": 2**40,
        "max_samples": None,
    }
    assert read_policy(shown, min_participants=2) == Policy(
        min_participants=4, quorum_share=0.5, deadline_s=12.0, staleness_weights=(4, 2), max_total_weight=2**40
    )


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ([], "policy"),
        ({"quorum": 3}, "policy.quorum"),
        ({"preset": "fast"}, "policy.preset"),
        ({"quorum_count": 2.5}, "policy.quorum_count"),
        ({"max_samples": -1}, "policy.max_samples"),
        ({"max_samples": 10**12}, "policy.max_samples"),
        ({"staleness_weights": "2, 1"}, "policy.staleness_weights"),
        ({"staleness_weights": [True]}, "policy.staleness_weights"),
        ({"staleness_weights": [1, 2]}, "policy.staleness_weights"),
        ({"deadline_s": 0}, "policy.deadline"),
        ({"quorum_count": 2**20}, "policy.max_total_weight"),  # it could never close
    ],
)
def test_what_cannot_be_or_could_never_close_is_refused_with_its_path(document: Any, field: str) -> None:
    with pytest.raises(InvalidTask) as refusal:
        read_policy(document, min_participants=2)
    assert refusal.value.variables["field"] == field
