"""What the server promises, checked from outside: by what participants sent and were told, and what lies on the disk.

Computes everything a second time, from the words of the protos and of RFC 6962.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from disco.aggregator.v1 import round_pb2

from blobstore import records
from blobstore.directory import DirectoryBlobStore
from learning.ids import TaskId
from tests.e2e.chaos_participants import Answered, Sent
from tests.e2e.exact_mean import exact_mean
from tests.e2e.system import System

Line = dict[str, Any]


async def check_versions(system: System, task_id: str, *, sizes: Sequence[int], sent: dict[str, Sent]) -> None:
    """Every version is the exact mean of what was sent, and follows from the one before it."""
    async with DirectoryBlobStore(system.data_dir) as store:
        before = await records.read_entry_bytes(store, TaskId(task_id), 0)
    files = sorted((system.data_dir / "tasks" / task_id / "versions").glob("*.json"))
    base_digest = system.record(task_id)["initial_digest"]
    for number, (entry, file) in enumerate(zip(system.ledger(task_id), files, strict=True), start=1):
        lines = entry["contributions"]
        assert (entry["version"], entry["base_digest"]) == (number, base_digest)
        assert entry["previous"] == hashlib.sha256(before).hexdigest()
        assert [line["position"] for line in lines] == list(range(len(lines)))
        assert entry["total_weight"] == sum(line["weight"] for line in lines)
        assert entry["merkle_root"] == _root([_leaf(task_id, number - 1, line) for line in lines]).hex()
        assert {line["digest"] for line in lines} <= sent.keys(), "a contribution is counted that nobody sent"
        received = [(sent[line["digest"]].weights, line["weight"]) for line in lines]
        base = system.weights(task_id, base_digest)
        expected = exact_mean(base, sizes, received, entry["weight_cap"])
        base_digest = entry["digest"]
        assert hashlib.sha256(expected).hexdigest() == base_digest
        assert system.weights(task_id, base_digest) == expected
        before = file.read_bytes()


def check_contributions(
    system: System, task_id: str, *, sent: dict[str, Sent], staleness_weights: Sequence[int]
) -> None:
    """What was acknowledged is counted once, as its receipt says; what was refused is not; nothing is counted twice."""
    counted: dict[str, tuple[int, Line]] = {}
    for entry in system.ledger(task_id):
        for line in entry["contributions"]:
            assert line["digest"] not in counted, "a contribution is counted twice"
            counted[line["digest"]] = (entry["version"] - 1, line)
            one = sent[line["digest"]]
            late = entry["version"] - 1 - line["base_round"]
            assert line["weight"] == one.samples * staleness_weights[late]
    for digest, one in sent.items():
        if one.refusal:
            assert digest not in counted, "a contribution is counted of which its sender was told that it is refused"
        if one.receipt is None:
            continue
        assert digest in counted, "an acknowledged contribution is counted in no version"
        number, line = counted[digest]
        told = one.receipt
        assert (told.task_id, told.round, told.sha256.hex()) == (task_id, number, digest)
        assert (told.participant_id, told.weight, told.position) == (
            line["participant_id"],
            line["weight"],
            line["position"],
        )
        assert (one.participant_id, one.base_round) == (line["participant_id"], line["base_round"])


def check_answers(
    system: System, task_id: str, answered: Sequence[Answered], *, staleness_weights: Sequence[int]
) -> int:
    """Who was answered through the gateway is counted, in the base's round or a later one that it was not too late for,
    and in the answer; or it was too late for every round before the answer. Returns how many were too late.

    Clients of that generation get no receipt: an answer is all that they are told."""
    ledger = system.ledger(task_id)
    versions = {system.record(task_id)["initial_digest"]: 0, **{entry["digest"]: entry["version"] for entry in ledger}}
    assert len(versions) == len(ledger) + 1, "two versions are the same, so an answer does not tell which it is"
    counted_in = {line["digest"]: entry["version"] for entry in ledger for line in entry["contributions"]}
    too_late = 0
    for one in answered:
        base, answer = versions[one.base], versions[one.answer]
        if one.digest in counted_in:
            assert base < counted_in[one.digest] <= min(base + len(staleness_weights), answer)
        else:
            assert answer >= base + len(staleness_weights), "a contribution was answered, in time, and is not counted"
            too_late += 1
    return too_late


def check_signature(receipt: round_pb2.Receipt, key: round_pb2.ReceiptKey) -> None:
    """The installation signed the receipt. Raises InvalidSignature."""
    assert receipt.key_id == key.key_id == hashlib.sha256(key.public_key).hexdigest()[:16]
    line = {
        "participant_id": receipt.participant_id,
        "digest": receipt.sha256.hex(),
        "weight": receipt.weight,
        "position": receipt.position,
    }
    statement = _statement(receipt.task_id, receipt.round, line)
    Ed25519PublicKey.from_public_bytes(key.public_key).verify(receipt.signature, statement)


def _statement(task_id: str, round: int, line: Line) -> bytes:
    who = line["participant_id"].encode()
    start = b"disco receipt v1" + struct.pack(">H", len(task_id)) + task_id.encode() + struct.pack(">Q", round)
    end = bytes.fromhex(line["digest"]) + struct.pack(">QQ", line["weight"], line["position"])
    return start + struct.pack(">H", len(who)) + who + end


def _leaf(task_id: str, round: int, line: Line) -> bytes:
    return hashlib.sha256(b"\0" + _statement(task_id, round, line)).digest()


def _root(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + _root(leaves[:half]) + _root(leaves[half:])).digest()
