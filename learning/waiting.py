"""What a round waits for, told to programs and to people. Decides nothing: what decides is `learning.federated`."""

from __future__ import annotations

from enum import Enum

from learning.federated import RoundStatus, State, contributions_needed


class Waiting(Enum):
    """What a round waits for."""

    FIRST_CONTRIBUTION = "first_contribution"
    MIN_PARTICIPANTS = "min_participants"
    QUORUM = "quorum"
    AGGREGATION = "aggregation"


def waiting_for(status: RoundStatus) -> tuple[Waiting, str]:
    """What the round waits for: for programs, and as a sentence for people."""
    if status.state is State.AGGREGATING and status.restoring is not None:
        return Waiting.AGGREGATION, (
            f"Round {status.number} is over; version {status.number + 1} "
            f"will be version {status.restoring.version} again."
        )
    if status.state is State.AGGREGATING:
        return Waiting.AGGREGATION, f"Round {status.number} is complete; version {status.number + 1} is being computed."
    have, needed, least = status.contributions, contributions_needed(status), status.policy.min_participants
    if have == 0:
        return Waiting.FIRST_CONTRIBUTION, (
            f"Round {status.number} waits for its first contribution; {status.participants} present, {needed} needed."
        )
    if have < least:
        return Waiting.MIN_PARTICIPANTS, (
            f"Round {status.number} has {have} of at least {least} contributions; "
            f"it keeps them and waits for more participants ({status.participants} present)."
        )
    return Waiting.QUORUM, (
        f"Round {status.number} has {have} of {needed} contributions; it closes "
        f"{status.policy.deadline_s:g} seconds after the first one with what is there."
    )
