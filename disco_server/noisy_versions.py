"""Computes a version with differential privacy once more: for who has the secret that its noise was drawn from.

Knows files; the arithmetic is `services.aggregator.rules.private_mean`. Steps that fail are told by `Failed`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from blobstore.records import LedgerEntry, PrivacyAccount
from disco_server.proof_files import NotReadable, read_bytes
from learning.privacy import CentralPrivacy
from learning.refusals import InvalidTask
from services.aggregator.noise_secret import NotANoiseSecret, read_secret
from services.aggregator.rules.private_mean import ClippedSum, Summed, disturb, plan_of_changes, purpose_of, rounded
from services.aggregator.sum_plan import SumPlan


class NotComputed(Exception):
    """Why it cannot be computed: the step, and a sentence."""

    def __init__(self, step: str, sentence: str) -> None:
        super().__init__(sentence)
        self.step = step


def digest_of_noisy_mean(
    entry: LedgerEntry,
    account: PrivacyAccount,
    plan: SumPlan,
    *,
    base: bytes,
    contribution: Callable[[str], bytes],
    older_bases: Path,
    secret_file: bytes | None,
) -> str:
    """SHA-256 of the weights. `contribution` reads one by its digest. Raises NotComputed."""
    number, privacy = entry.version, _privacy(account)
    if secret_file is None:
        raise NotComputed(
            "noise",
            f"Version {number} has noise on it, for differential privacy: only who has the noise secret of the "
            "installation can compute it again (--noise-secret, keys/noise.hex in its data directory). What the entry "
            "states of its contributions fits together.",
        )
    try:
        secret = read_secret(secret_file)
    except NotANoiseSecret:
        raise NotComputed("noise", "The noise secret is not 64 hexadecimal digits.") from None
    total = ClippedSum(plan_of_changes(plan, privacy), privacy)
    for line in entry.contributions:
        started_from = base if line.base_round == number - 1 else _older_base(older_bases, line.base_round, len(base))
        total.add_change(contribution(line.digest), started_from, line.weight)
    summed = [Summed(line.digest, line.base_round, line.weight) for line in entry.contributions]
    purpose = purpose_of(entry.task_id, number - 1, entry.base_digest, privacy=privacy, plan=total.plan, summed=summed)
    disturb(total, secret, purpose, heaviest=max(line.weight for line in entry.contributions))
    return hashlib.sha256(rounded(total, base, privacy)).hexdigest()


def _privacy(account: PrivacyAccount) -> CentralPrivacy:
    try:
        return CentralPrivacy(
            clipping_norm=account.clipping_norm,
            noise_multiplier=account.noise_multiplier,
            delta=account.delta,
            epsilon_budget=account.epsilon_budget,
        )
    except InvalidTask as refusal:
        raise NotComputed("noise", f"The entry states what no task can ask for: {refusal}") from None


def _older_base(folder: Path, number: int, size: int) -> bytes:
    """What a late contribution started from."""
    path = folder / f"version-{number}.bin"
    try:
        weights = read_bytes(path)
    except NotReadable:
        raise NotComputed(
            "contributions",
            f"A late contribution started from version {number}: put its weights beside the contributions, as "
            f"{path.name}.",
        ) from None
    if len(weights) != size:
        raise NotComputed("contributions", f"{path.name} does not have the size of the base.")
    return weights
