"""Checks what Disco promises, from files alone: that a receipt is counted, that a version is what it says, that the
ledger is a chain. Asks no server, and trusts none.

Every check is a number of steps; the first one that fails is raised, by name and with a
sentence. Computes with the code that the aggregators compute with.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from blobstore import ledger, records
from blobstore.records import LedgerEntry, WeightSpec
from disco_server.noisy_versions import NotComputed, digest_of_noisy_mean
from disco_server.proof_files import NotReadable, Proof, Receipt, contribution_file, read_bytes
from learning import merkle
from learning.policy import MAX_TOTAL_WEIGHT
from learning.receipts import Statement, key_id
from learning.refusals import DiscoError, StoredDataDamaged
from services.aggregator.exact_sums import PartialSum
from services.aggregator.sum_plan import SumPlan

MADE_WITHOUT_CONTRIBUTIONS = {"initial": "was given when the task was created", "fork": "is that of another task"}


class Failed(Exception):
    """A step failed: its name, and a sentence."""

    def __init__(self, step: str, sentence: str) -> None:
        super().__init__(sentence)
        self.step = step


def read_entry(data: bytes) -> LedgerEntry:
    """Raises Failed."""
    try:
        return records.decode_entry(data, name="The entry")
    except StoredDataDamaged:
        raise Failed("entry", "The entry is no ledger entry of Disco.") from None


def verify_receipt(receipt: Receipt, entry: LedgerEntry, proof: Proof | None, *, pem: bytes) -> str:
    """What is proved. Raises Failed; in the step "lost" where the entry says that the contribution is.

    There is no proof for what is lost, so none is needed to find that out.
    """
    statement = receipt.statement
    signed = _encoded(statement)
    _check_signature(receipt, signed, pem)
    index = _check_entry(statement, entry)
    if proof is None:
        raise Failed("leaf", "The entry states this contribution, but its proof is missing.")
    leaf = merkle.leaf_hash(signed)
    _require(proof.leaf == leaf, "leaf", "The leaf of the proof is not what the receipt states.")
    _require(
        proof.version == entry.version and proof.index == index,
        "leaf",
        "The proof is of another version, or of another place in it, than the receipt states.",
    )
    _require(
        proof.tree_size == len(entry.contributions),
        "path",
        f"The proof is from a tree of {proof.tree_size} leaves, but the entry states "
        f"{len(entry.contributions)} contributions.",
    )
    _require(
        merkle.verify_inclusion(leaf, proof.index, proof.tree_size, path=proof.path, root=proof.root),
        "path",
        "The path of the proof does not lead from the leaf to its root.",
    )
    _require(proof.root.hex() == entry.merkle_root, "root", "The root of the proof is not the root of the entry.")
    counted = (
        f"is acknowledged in version {entry.version}, which restores version {entry.restores}: it is in no weights"
        if entry.rule == "restore"
        else f"is counted in version {entry.version}, once, with weight {statement.weight}"
    )
    return (
        f"The contribution of {statement.participant_id} to round {statement.round} of {statement.task_id} {counted}."
    )


def verify_version(
    entry: LedgerEntry,
    base: bytes,
    weight_specs: Sequence[WeightSpec],
    *,
    contributions: Path,
    noise_secret: bytes | None = None,
) -> str:
    """What is proved, by computing the version once more. Raises Failed.

    `noise_secret` is the file with the secret, which a version with differential privacy cannot be computed without.
    """
    if entry.rule in MADE_WITHOUT_CONTRIBUTIONS:
        raise Failed("rule", f"Version {entry.version} {MADE_WITHOUT_CONTRIBUTIONS[entry.rule]}: nothing to compute.")
    check_statements(entry)
    if entry.rule == "restore":
        _require(_sha256(base) == entry.digest, "base", f"The base is not version {entry.restores}, which is restored.")
        return f"Version {entry.version} of {entry.task_id} has the weights of version {entry.restores} again."
    _require(_sha256(base) == entry.base_digest, "base", "The base does not have the SHA-256 that the entry states.")
    if entry.rule != "mean":
        raise Failed(
            "rule",
            f"Version {entry.version} was made by the rule {entry.rule}, whose numbers the entry does not state. "
            "What it states of its contributions fits together, but its weights were not computed again.",
        )
    _require(bool(entry.contributions), "contributions", f"Version {entry.version} states no contributions.")
    plan = _plan(weight_specs, base, entry.weight_cap)
    count = len(entry.contributions)
    if entry.privacy is not None:
        try:
            noisy = digest_of_noisy_mean(
                entry,
                entry.privacy,
                plan,
                base=base,
                contribution=lambda digest: _contribution(plan, contributions, digest),
                older_bases=contributions,
                secret_file=noise_secret,
            )
        except NotComputed as reason:
            raise Failed(reason.step, str(reason)) from None
        _require(
            noisy == entry.digest,
            "result",
            "The clipped mean of the contributions with the noise of this secret does not have the SHA-256 that the "
            "entry states for the version.",
        )
        return (
            f"Version {entry.version} of {entry.task_id} is the mean of its {count} contributions, each clipped to "
            f"{entry.privacy.clipping_norm:g}, with the noise of this secret, to the bit."
        )
    total = PartialSum(plan)
    for line in entry.contributions:
        total.add(_contribution(plan, contributions, line.digest), line.weight)
    _require(
        _sha256(total.mean()) == entry.digest,
        "result",
        "The exact mean of the contributions does not have the SHA-256 that the entry states for the version.",
    )
    return f"Version {entry.version} of {entry.task_id} is the exact mean of its {count} contributions, to the bit."


def verify_chain(entries: Sequence[bytes]) -> str:
    """What is proved of entries in any order. Raises Failed."""
    read = sorted(((read_entry(data), data) for data in entries), key=lambda pair: pair[0].version)
    _require(bool(read), "chain", "There is no entry.")
    unchained = 0
    for entry, _ in read:
        check_statements(entry)
    for (before, data), (entry, _) in itertools.pairwise(read):
        number = entry.version
        _require(
            number == before.version + 1, "chain", f"Between version {before.version} and {number} one is missing."
        )
        _require(
            entry.base_digest == before.digest,
            "chain",
            f"Version {number} does not start from version {before.version}.",
        )
        unchained += not entry.previous
        _require(
            entry.previous in ("", ledger.digest_of_entry(data)),
            "chain",
            f"The entry of version {number} does not state the digest of the entry before it.",
        )
    first, last = read[0][0].version, read[-1][0].version
    gap = f" {unchained} of them were written before entries were chained." if unchained else ""
    return f"The entries of versions {first} to {last} are a chain, each with the root of its contributions.{gap}"


def check_statements(entry: LedgerEntry) -> None:
    """What an entry states of its contributions fits together. Raises Failed."""
    lines, number = entry.contributions, entry.version
    _require(
        _is_numbered(entry)
        and len({line.participant_id for line in lines}) == len(lines)
        and all(line.weight > 0 for line in lines),
        "contributions",
        f"The contributions of version {number} are not counted once each, one behind the other.",
    )
    total = sum(line.weight for line in lines)
    _require(
        total == entry.total_weight <= min(entry.weight_cap, MAX_TOTAL_WEIGHT),
        "total_weight",
        f"The weights of version {number} add up to {total}, not to {entry.total_weight} (at most {entry.weight_cap}).",
    )
    if entry.merkle_root:
        try:
            root = ledger.with_root(entry).merkle_root
        except ValueError:
            root = ""
        _require(
            root == entry.merkle_root, "root", f"The contributions of version {number} do not have the root it states."
        )


def _check_signature(receipt: Receipt, signed: bytes, pem: bytes) -> None:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise Failed("key", "The key is no Ed25519 public key in PEM.")
    _require(
        receipt.key_id == key_id(key.public_bytes_raw()),
        "key",
        f"The receipt was signed by another key, {receipt.key_id}.",
    )
    try:
        key.verify(receipt.signature, signed)
    except InvalidSignature:
        raise Failed("signature", "The signature does not fit what the receipt states.") from None


def _is_numbered(entry: LedgerEntry) -> bool:
    """Whether the contributions stand in the order of their positions, and only those are missing that are lost."""
    positions = [line.position for line in entry.contributions]
    given = {*positions, *(line.position for line in entry.lost)}
    return positions == sorted(set(positions)) and given.issuperset(range(max(positions, default=-1) + 1))


def _check_entry(statement: Statement, entry: LedgerEntry) -> int:
    """The place of the contribution among those of the entry."""
    _require(
        entry.task_id == statement.task_id and entry.version == statement.round + 1,
        "entry",
        f"The entry is of version {entry.version} of {entry.task_id}, but the receipt is for "
        f"version {statement.round + 1} of {statement.task_id}.",
    )
    check_statements(entry)
    for index, line in enumerate(entry.contributions):
        if line.position == statement.position and ledger.statement(entry, line) == statement:
            return index
    if any(ledger.statement(entry, line) == statement for line in entry.lost):
        raise Failed(
            "lost",
            f"The contribution of {statement.participant_id} to round {statement.round} of {statement.task_id} was "
            f"acknowledged, and is lost: to a loss of power or a broken disk in that round. The entry of version "
            f"{entry.version} names it, and it is not counted.",
        )
    raise Failed("entry", "The entry does not state this contribution at the position of the receipt.")


def _encoded(statement: Statement) -> bytes:
    try:
        return statement.encode()
    except ValueError:
        raise Failed("receipt", "The receipt states what no receipt can.") from None


def _plan(weight_specs: Sequence[WeightSpec], base: bytes, weight_cap: int) -> SumPlan:
    try:
        return SumPlan.for_base(weight_specs, base, weight_cap)
    except DiscoError as refusal:
        raise Failed("base", f"The base does not fit the model: {refusal}") from None


def _contribution(plan: SumPlan, folder: Path, digest: str) -> bytes:
    try:
        weights = read_bytes(contribution_file(folder, digest))
    except NotReadable as missing:
        raise Failed("contributions", f"A contribution is missing: {missing}") from None
    _require(_sha256(weights) == digest, "contributions", f"The contribution {digest} does not have this SHA-256.")
    try:
        plan.check(weights)
    except DiscoError as refusal:
        raise Failed("contributions", f"The contribution {digest} could not have been counted: {refusal}") from None
    return weights


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _require(holds: bool, step: str, sentence: str) -> None:
    if not holds:
        raise Failed(step, sentence)
