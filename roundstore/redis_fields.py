"""How rounds, policies, admissions and pointers are written in Redis, and read again. Knows no keys and no rules.

    number, state, epoch, revision      the round
    contributions, total_weight         what is in it; weight_cap is the cap on the latter
    first_contribution_at               seconds, or empty
    closer, closer_until                who computes the version, and until when; or empty
    last_contributions                  of the round before
    contributions_ever                  of all rounds before
    restores, restore_request, restore_asked_at
                                        the version that the next one will be again, who asked, when; or empty
    oldest_base                         contributions that start before this round are refused; 0 where it is missing
    lost                                contributions that were acknowledged and are lost; 0 where it is missing
    min_participants, quorum_share, quorum_count, deadline_s, staleness_weights, max_total_weight, max_samples
                                        the policy; of share and count one is empty, as the last one may be (or missing)

Everything is text that people can read too. Times are the shortest decimals that
give the same double again, so that nothing is rounded on the way. An admission is
`digest base_round weight round position sum`, a pointer `blob digest contributions
total_weight`, followed by its earlier ones, with commas between them; no value has a space or a comma in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from learning.federated import Admission, Contribution, Restoring, RoundStatus, State
from learning.ids import ParticipantId, ReplicaId, TaskId
from learning.policy import Policy
from roundstore.store import SumPointer

POLICIES_CACHED = 256


def from_time(seconds: float) -> str:
    return repr(float(seconds))


def _optional_time(text: str) -> float | None:
    return float(text) if text else None


def from_policy(policy: Policy) -> dict[str, str]:
    return {
        "min_participants": str(policy.min_participants),
        "quorum_share": "" if policy.quorum_share is None else from_time(policy.quorum_share),
        "quorum_count": "" if policy.quorum_count is None else str(policy.quorum_count),
        "deadline_s": from_time(policy.deadline_s),
        "staleness_weights": ",".join(str(weight) for weight in policy.staleness_weights),
        "max_total_weight": str(policy.max_total_weight),
        "max_samples": "" if policy.max_samples is None else str(policy.max_samples),
    }


def _to_policy(fields: dict[str, str]) -> Policy:
    return _policy_of(
        fields["min_participants"],
        fields["quorum_share"],
        fields["quorum_count"],
        fields["deadline_s"],
        fields["staleness_weights"],
        fields["max_total_weight"],
        fields.get("max_samples", ""),
    )


# A policy comes with every answer and hardly ever changes; making one checks all of its rules.
@lru_cache(POLICIES_CACHED)
def _policy_of(
    min_participants: str,
    quorum_share: str,
    quorum_count: str,
    deadline_s: str,
    staleness_weights: str,
    max_total_weight: str,
    max_samples: str,
) -> Policy:
    return Policy(
        min_participants=int(min_participants),
        quorum_share=float(quorum_share) if quorum_share else None,
        quorum_count=int(quorum_count) if quorum_count else None,
        deadline_s=float(deadline_s),
        staleness_weights=tuple(int(weight) for weight in staleness_weights.split(",")),
        max_total_weight=int(max_total_weight),
        max_samples=int(max_samples) if max_samples else None,
    )


def new_round(epoch: str, number: int, policy: Policy, *, contributions_ever: int = 0) -> dict[str, str]:
    """The fields of a round that was just opened."""
    return {
        "epoch": epoch,
        "number": str(number),
        "state": State.COLLECTING.value,
        "revision": "0",
        "contributions": "0",
        "total_weight": "0",
        "weight_cap": str(policy.max_total_weight),
        "first_contribution_at": "",
        "closer": "",
        "closer_until": "",
        "last_contributions": "0",
        "contributions_ever": str(contributions_ever),
        "restores": "",
        "restore_request": "",
        "restore_asked_at": "",
        "oldest_base": "0",
        "lost": "0",
        **from_policy(policy),
    }


def to_status(task_id: TaskId, reply: Sequence[bytes], participants: int, absent_contributors: int) -> RoundStatus:
    """`reply` is that of HGETALL inside a script: names and values in turn."""
    words = b" ".join(reply).decode().split(" ")  # no value has a space in it, and one text is decoded faster than many
    fields = dict(zip(words[::2], words[1::2], strict=True))
    return RoundStatus(
        task_id=task_id,
        epoch=fields["epoch"],
        number=int(fields["number"]),
        state=State(fields["state"]),
        policy=_to_policy(fields),
        revision=int(fields["revision"]),
        participants=participants,
        contributions=int(fields["contributions"]),
        absent_contributors=absent_contributors,
        total_weight=int(fields["total_weight"]),
        weight_cap=int(fields["weight_cap"]),
        first_contribution_at=_optional_time(fields["first_contribution_at"]),
        closer=ReplicaId(fields["closer"]) if fields["closer"] else None,
        closer_until=_optional_time(fields["closer_until"]),
        last_contributions=int(fields["last_contributions"]),
        contributions_ever=int(fields["contributions_ever"]),
        restoring=_to_restoring(fields),
        oldest_base=int(fields.get("oldest_base", "0")),
        lost=int(fields.get("lost", "0")),
    )


def from_restoring(restoring: Restoring) -> tuple[int, str, str]:
    return restoring.version, restoring.request_id, from_time(restoring.asked_at)


def _to_restoring(fields: dict[str, str]) -> Restoring | None:
    if not fields.get("restores"):
        return None
    return Restoring(
        version=int(fields["restores"]),
        request_id=fields["restore_request"],
        asked_at=float(fields["restore_asked_at"]),
    )


def from_contribution(contribution: Contribution) -> tuple[str, str, int, int, str]:
    return (
        contribution.participant_id,
        contribution.digest,
        contribution.base_round,
        contribution.weight,
        repr(contribution.norm) if contribution.norm else "",
    )


def to_admission(participant_id: ParticipantId, packed: bytes) -> Admission:
    digest, base_round, weight, number, position, *of_sum = packed.decode().split(" ")
    return Admission(
        participant_id=participant_id,
        digest=digest,
        base_round=int(base_round),
        weight=int(weight),
        round=int(number),
        position=int(position),
        sum=of_sum[0] if of_sum else "",  # which was not written before there was anything to fall back to
    )


def to_lost(packed: bytes) -> Admission:
    """`participant admission`."""
    participant_id, _, admission = packed.partition(b" ")
    return to_admission(ParticipantId(participant_id.decode()), admission)


def from_pointer(pointer: SumPointer) -> str:
    return ",".join(
        f"{each.blob} {each.digest} {each.contributions} {each.total_weight}" for each in (pointer, *pointer.earlier)
    )


def to_pointer(replica_id: ReplicaId, packed: bytes) -> SumPointer:
    newest, *earlier = (_to_pointer(replica_id, each) for each in packed.decode().split(","))
    return replace(newest, earlier=tuple(earlier))


def _to_pointer(replica_id: ReplicaId, packed: str) -> SumPointer:
    blob, digest, contributions, total_weight = packed.split(" ")
    return SumPointer(
        replica_id=replica_id,
        blob=blob,
        digest=digest,
        contributions=int(contributions),
        total_weight=int(total_weight),
    )
