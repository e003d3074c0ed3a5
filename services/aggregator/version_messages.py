"""Versions and proofs as messages of disco.aggregator.v1. Knows both forms, and decides nothing."""

from __future__ import annotations

from disco.aggregator.v1 import version_pb2

from blobstore import ledger
from services.aggregator.history import Proof, Stated
from services.aggregator.receipt_key import ReceiptKey
from services.aggregator.round_messages import privacy_message, receipt_message


def version_message(stated: Stated) -> version_pb2.Version:
    entry = stated.entry
    message = version_pb2.Version(
        task_id=stated.task_id,
        number=entry.version,
        rule=entry.rule,
        weights_sha256=bytes.fromhex(entry.digest),
        base_sha256=bytes.fromhex(entry.base_digest),
        contributions=len(entry.contributions),
        total_weight=entry.total_weight,
        weight_cap=entry.weight_cap,
        merkle_root=bytes.fromhex(entry.merkle_root),
        previous_entry_sha256=bytes.fromhex(entry.previous),
        entry_sha256=bytes.fromhex(ledger.digest_of_entry(stated.data)),
        kept=stated.kept,
        restored_version=entry.restores,
    )
    message.create_time.FromNanoseconds(round(entry.create_time * 1e9))
    if entry.source is not None:
        message.source.task_id = entry.source.task_id
        message.source.version = entry.source.version
        message.source.entry_sha256 = bytes.fromhex(entry.source.entry_digest)
    if entry.privacy is not None:
        message.privacy.CopyFrom(privacy_message(entry.privacy))
    return message


def proof_message(proof: Proof, key: ReceiptKey) -> version_pb2.Proof:
    return version_pb2.Proof(
        version=proof.version,
        receipt=receipt_message(proof.statement, key),
        leaf=proof.leaf,
        index=proof.index,
        tree_size=proof.tree_size,
        path=proof.path,
        root=proof.root,
    )
