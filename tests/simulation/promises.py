"""What must hold when a schedule is over, whatever went wrong in it.

Written from the promises alone, and computed a second time: knows the records of versions,
what was sent and what was answered; nothing of the aggregator's code.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from blobstore import names, records, whole
from blobstore.records import LedgerEntry
from blobstore.store import Buffer
from learning.aggregation import Aggregation
from learning.federated import Admission, RoundStatus, State
from learning.ids import ParticipantId
from learning.policy import Policy
from learning.waiting import Waiting, waiting_for
from roundstore.store import RoundStore
from tests.simulation.memory_blobs import MemoryBlobStore
from tests.simulation.participants import Sent
from tests.simulation.promised_weights import PromisedWeights
from tests.simulation.small_task import TASK_ID
from tests.simulation.watchers import Brought

LOST_S = 2.1
"""What was acknowledged so long before the power failed is never lost (`tests.simulation.power`)."""
ON_ITS_WAY_S = 0.01
"""An answer that left before the power failed may come so long after it."""


class RememberingBlobs(MemoryBlobStore):
    """Keeps the weights of every version, whatever is deleted, and notices where a version changes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.weights: dict[str, bytes] = {}
        """By their digests."""
        self.changed: list[str] = []

    async def write(self, name: str, parts: Sequence[Buffer], *, replace: bool = True) -> None:
        before = self._blobs.get(name)
        await super().write(name, parts, replace=replace)
        data = self._blobs[name]
        if before not in (None, data) and name.startswith(names.versions(TASK_ID)):
            self.changed.append(name)
        if "/weights/" in name:
            self.weights[hashlib.sha256(data).hexdigest()] = data


@dataclass(frozen=True)
class Counted:
    """A contribution as it is found in a ledger entry or among the admissions of the open round."""

    participant: str
    digest: str
    base_round: int
    weight: int
    round: int
    position: int


@dataclass
class Outcome:
    """All that is left when a schedule is over."""

    status: RoundStatus
    entries: list[LedgerEntry]
    """Of version 0, 1, 2, …"""
    weights: list[bytes]
    open: list[Admission]
    power_cuts: list[float] = field(default_factory=list)


async def read_outcome(
    store: RoundStore, blobs: RememberingBlobs, sent: Sequence[Sent], *, power_cuts: list[float]
) -> Outcome:
    status = await store.read_status(TASK_ID)
    assert status is not None, "the round was opened"
    newest = await whole.Heads(blobs).newest(TASK_ID)
    entries = [await records.read_ledger_entry(blobs, TASK_ID, number) for number in range(newest + 1)]
    admitted = {}
    for participant in sorted({contribution.participant for contribution in sent}):
        for admission in await store.find_admission(TASK_ID, ParticipantId(participant), rounds=[status.number]):
            admitted[admission.position] = admission
    return Outcome(
        status=status,
        entries=entries,
        weights=[blobs.weights[entry.digest] for entry in entries],
        open=[admitted[position] for position in sorted(admitted)],
        power_cuts=power_cuts,
    )


def broken_promises(
    outcome: Outcome, sent: Sequence[Sent], policies: Sequence[Policy], aggregation: Aggregation | None
) -> list[str]:
    """A sentence for each promise that does not hold. `policies`: all that were in force."""
    known = {(each.participant, each.digest, each.base_round): each for each in sent}
    return [
        *_what_is_not_settled(outcome),
        *_what_is_wrong_with_versions(outcome, known, policies, PromisedWeights(aggregation)),
        *_what_is_wrong_with_counting(_counted(outcome), known, policies, outcome.power_cuts),
    ]


def what_was_brought_wrong(outcome: Outcome, brought: Sequence[Brought]) -> list[str]:
    """Versions that came with the news are those of the ledger; where the power failed since, they may be lost."""
    problems = []
    last_cut = max(outcome.power_cuts, default=-math.inf)
    for each in brought:
        if hashlib.sha256(each.weights).hexdigest() != each.digest:
            problems.append(f"version {each.number} came without having its digest")
        if each.at > last_cut + ON_ITS_WAY_S and outcome.entries[each.number].digest != each.digest:
            problems.append(f"version {each.number} came as another one than the ledger states")
    return problems


def is_settled(status: RoundStatus) -> bool:
    """Whether nothing will happen any more unless somebody contributes."""
    return status.state is State.COLLECTING and waiting_for(status)[0] in (
        Waiting.FIRST_CONTRIBUTION,
        Waiting.MIN_PARTICIPANTS,
    )


def _what_is_not_settled(outcome: Outcome) -> list[str]:
    status = outcome.status
    problems = []
    if not is_settled(status):
        problems.append(f"the round waits for ever: {waiting_for(status)[1]}")
    if status.number != len(outcome.entries) - 1:
        problems.append(f"round {status.number} is open, and version {len(outcome.entries) - 1} is the newest")
    if len(outcome.open) != status.contributions:
        problems.append(f"the open round has {status.contributions} contributions and {len(outcome.open)} admissions")
    if status.contributions_ever != sum(len(entry.contributions) for entry in outcome.entries):
        problems.append("the number of contributions ever is not the number of those in the ledger")
    return problems


def _what_is_wrong_with_versions(
    outcome: Outcome,
    known: dict[tuple[str, str, int], Sent],
    policies: Sequence[Policy],
    promised: PromisedWeights,
) -> list[str]:
    problems = []
    least = min(policy.min_participants for policy in policies)
    for number, (entry, weights) in enumerate(zip(outcome.entries, outcome.weights, strict=True)):
        if number == 0:
            continue
        base = outcome.entries[number - 1]
        lines = entry.contributions
        if (entry.version, entry.base_digest) != (number, base.digest):
            problems.append(f"version {number} does not stand on version {number - 1}")
        positions = [line.position for line in lines]
        given = {*positions, *(line.position for line in entry.lost)}
        if positions != sorted(set(positions)) or not given.issuperset(range(max(positions, default=-1) + 1)):
            problems.append(f"version {number} has positions {[line.position for line in lines]}")
        if not sum(line.weight for line in lines) == entry.total_weight <= entry.weight_cap:
            problems.append(f"version {number} has a total weight of {entry.total_weight}, cap {entry.weight_cap}")
        if len(lines) < least:
            problems.append(f"version {number} was made of {len(lines)} contributions")
        try:
            listed = [(known[line.participant_id, line.digest, line.base_round].weights, line.weight) for line in lines]
        except KeyError as missing:
            problems.append(f"version {number} counts what nobody sent: {missing}")
            continue
        if not promised.are(weights, base=outcome.weights[number - 1], listed=listed, weight_cap=entry.weight_cap):
            problems.append(f"version {number} is not what the rule makes of what its ledger entry lists")
    return problems


def _what_is_wrong_with_counting(
    counted: list[Counted],
    known: dict[tuple[str, str, int], Sent],
    policies: Sequence[Policy],
    power_cuts: Sequence[float],
) -> list[str]:
    problems = []
    places = Counter((each.participant, each.digest, each.base_round) for each in counted)
    problems += [f"{known.get(key, key)} is counted {count} times" for key, count in places.items() if count > 1]
    per_round = Counter((each.participant, each.round) for each in counted)
    problems += [f"{who} is counted {count} times in round {n}" for (who, n), count in per_round.items() if count > 1]
    found = {(each.participant, each.digest, each.base_round): each for each in counted}
    for key, place in found.items():
        sent = known.get(key)
        if sent is None or sent.is_rubbish:
            problems.append(f"{place} is counted and should not be")
        elif place.weight not in _weights(sent, place.round - sent.base_round, policies):
            problems.append(f"{place} has the wrong weight")
    for key, sent in known.items():
        problems += _what_was_told_wrong(sent, found.get(key), power_cuts)
    return problems


def _weights(sent: Sent, late: int, policies: Sequence[Policy]) -> list[int]:
    """What a contribution may weigh. Where the cap of a round may have been tight, also a part of its samples."""
    samples, least = max(sent.sample_count, 1), min(policy.max_total_weight for policy in policies)
    fewest = min(samples, *(policy.samples_within(least) for policy in policies))
    return [counted * policies[0].staleness_weights[late] for counted in range(fewest, samples + 1)]


def _what_was_told_wrong(sent: Sent, place: Counted | None, power_cuts: Sequence[float]) -> list[str]:
    if not sent.receipts:
        return [f"{sent} is counted, and was refused: {sent.refused}"] if sent.refused and place else []
    receipts = [
        receipt
        for receipt, at in zip(sent.receipts, sent.told_at, strict=True)
        if not any(at - ON_ITS_WAY_S <= cut <= at + LOST_S for cut in power_cuts)
    ]
    if not receipts:
        return []
    if any(receipt != receipts[0] for receipt in receipts):
        return [f"{sent} has different receipts: {receipts}"]
    receipt = receipts[0]
    if place is None:
        return [f"{sent} was acknowledged for round {receipt.round}, and is not counted"]
    stated = receipt.participant_id, receipt.sha256.hex(), receipt.weight, receipt.round, receipt.position
    if stated != (place.participant, place.digest, place.weight, place.round, place.position):
        return [f"the receipt of {sent} says {stated}, and it is counted as {place}"]
    return []


def _counted(outcome: Outcome) -> list[Counted]:
    counted = [
        Counted(line.participant_id, line.digest, line.base_round, line.weight, entry.version - 1, line.position)
        for entry in outcome.entries
        for line in entry.contributions
    ]
    return counted + [
        Counted(
            admission.participant_id,
            admission.digest,
            admission.base_round,
            admission.weight,
            admission.round,
            admission.position,
        )
        for admission in outcome.open
    ]
