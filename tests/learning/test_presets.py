"""What the named policies are."""

from __future__ import annotations

from learning.policy import Policy
from learning.presets import Preset, policy_of


def test_synchronous_training_waits_for_everybody_and_takes_nothing_late() -> None:
    policy = policy_of(Preset.SYNCHRONOUS)
    assert (policy.quorum_share, policy.quorum_count, policy.deadline_s) == (1.0, None, 600.0)
    assert (policy.min_participants, policy.staleness_weights) == (2, (1,))


def test_semi_synchronous_training_is_what_a_task_has_that_names_nothing() -> None:
    assert policy_of(Preset.SEMI_SYNCHRONOUS) == Policy()


def test_buffered_asynchronous_training_closes_after_ten_with_weights_that_fall_as_in_fedbuff() -> None:
    policy = policy_of(Preset.BUFFERED_ASYNCHRONOUS)
    assert (policy.quorum_share, policy.quorum_count, policy.deadline_s) == (None, 10, 60.0)
    assert policy.staleness_weights == (8, 6, 5, 4, 4, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2)


def test_numbers_of_ones_own_replace_those_of_the_preset() -> None:
    assert policy_of(Preset.BUFFERED_ASYNCHRONOUS, quorum_count=3).quorum_count == 3
    share = policy_of(Preset.BUFFERED_ASYNCHRONOUS, quorum_share=0.5)
    assert (share.quorum_share, share.quorum_count, share.deadline_s) == (0.5, None, 60.0)
    assert policy_of(Preset.SYNCHRONOUS, quorum_count=3) == Policy(
        quorum_share=None, quorum_count=3, deadline_s=600.0, staleness_weights=(1,)
    )
