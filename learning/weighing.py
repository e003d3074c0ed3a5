"""What a contribution weighs in a round, and when it comes too late or too early to weigh anything.

Knows the numbers of rounds and nothing of who contributes.
"""

from __future__ import annotations

from dataclasses import replace

from learning.federated import RoundStatus, State
from learning.policy import Policy
from learning.refusals import InvalidPolicy, RoundAhead, RoundStale, WeightCapReached


def weight_of(status: RoundStatus, *, base_round: int, sample_count: int) -> int:
    """Integer weight a contribution would have now: its samples (1 where not told) times the weight of its lateness.

    Samples beyond the cap for one contribution do not count. It hangs on the policy and the round's cap alone, not on
    what else was contributed: weights must not hang on the order in which contributions come.

    Raises RoundAhead, RoundStale, WeightCapReached.
    """
    late = status.number - base_round
    if late < 0:
        raise RoundAhead(round=base_round, current_round=status.number)
    if late > status.policy.max_staleness or base_round < status.oldest_base:
        raise RoundStale(round=base_round, current_round=status.number)
    samples = min(max(sample_count, 1), status.policy.samples_within(status.weight_cap))
    weight = samples * status.policy.staleness_weights[late]
    if weight > status.weight_cap:
        raise WeightCapReached(cap=status.weight_cap)
    return weight


def check_room(status: RoundStatus, policy: Policy) -> None:
    """Whether the round that collects, and the next one, can close under another policy: their caps are given already.

    Raises InvalidPolicy.
    """
    if status.state is not State.COLLECTING:
        return  # the next round opens with the cap of the policy itself
    heaviest = policy.staleness_weights[0] * policy.samples_within(status.weight_cap)
    missing = max(policy.fewest_contributions - status.contributions, 0)
    this_round, next_round = (
        (status.weight_cap, status.total_weight + missing * heaviest),
        (status.policy.max_total_weight, policy.fewest_contributions * policy.staleness_weights[0]),
    )
    for cap, wanted in (this_round, next_round):
        if wanted > cap:
            raise InvalidPolicy(
                field="min_participants",
                problem=f"the cap of {cap} in force is reached before enough participants can contribute, so no round "
                "could close; raise max_total_weight first, and this a round later",
            )


def as_collecting(status: RoundStatus) -> RoundStatus:
    """The round that a contribution of this moment will be judged in: while one is being closed, the next."""
    if status.state is State.COLLECTING:
        return status
    return replace(
        status,
        number=status.number + 1,
        state=State.COLLECTING,
        weight_cap=status.policy.max_total_weight,
        oldest_base=status.oldest_base if status.restoring is None else status.number + 1,
        restoring=None,
    )
