"""What becomes of a round when bytes that it hangs on are lost: after a loss of power, or on a broken disk.

    contributions    they can be counted by nobody any more: the round collects (again) without them. Their positions
                     are given to nobody else, so that a receipt is of one contribution and of no other
    the version      the one that the round started from: the round before is collected again, as it was when it was
                     closed; what was contributed to the later one is lost

Each comes with a fresh epoch: what a replica remembers of the round is void. Rule 2 of
`learning.federated` holds here, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from learning.federated import FederatedRound, RoundMoved, State
from learning.ids import ParticipantId


def without_contributions(round: FederatedRound, lost: Sequence[ParticipantId], *, epoch: str) -> FederatedRound:
    left = {who: admission for who, admission in round.admissions.items() if who not in lost}
    return replace(
        round,
        epoch=epoch,
        state=State.COLLECTING,
        revision=round.revision + 1,
        admissions=left,
        total_weight=sum(admission.weight for admission in left.values()),
        first_contribution_at=round.first_contribution_at if left else None,
        closer=None,
        closer_until=None,
        restoring=None,
        lost=round.lost + len(round.admissions) - len(left),
    )


def without_version(round: FederatedRound, before: FederatedRound | None, *, epoch: str) -> FederatedRound:
    """Goes back to the round before; `before` is that round when it was closed, None where nobody knows it any more.

    Whoever is present now stays so. Raises RoundMoved for round 0.
    """
    if not round.number:
        raise RoundMoved
    if before is None:
        cap = round.policy.max_total_weight
        before = FederatedRound(round.task_id, epoch, round.policy, cap, number=round.number - 1)
    return replace(
        before,
        epoch=epoch,
        policy=round.policy,
        state=State.COLLECTING,
        revision=round.revision + 1,
        leases=round.leases,
        connections=round.connections,
        closer=None,
        closer_until=None,
        restoring=None,
        last_contributions=0,
        contributions_ever=round.contributions_ever - len(before.admissions),
    )
