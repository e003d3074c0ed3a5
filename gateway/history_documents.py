"""Rounds, versions, proofs and receipts as JSON: snake_case names, bytes in lower-case hex, times as RFC 3339.

Knows the aggregator's messages and no HTTP.
"""

from __future__ import annotations

from typing import Any

from disco.aggregator.v1.aggregator_service_pb2 import RefusedContribution
from disco.aggregator.v1.round_pb2 import PrivacyAccount, Receipt, ReceiptKey, Round
from disco.aggregator.v1.version_pb2 import Proof, Version
from disco.signaling.v1.signaling_service_pb2 import PeerRound
from disco.task.v1.policy_pb2 import Policy


def round_document(round: Round) -> dict[str, Any]:
    return {
        "task_id": round.task_id,
        "number": round.number,
        "version": round.version,
        "state": Round.State.Name(round.state).removeprefix("STATE_").lower(),
        "waiting": Round.Waiting.Name(round.waiting).removeprefix("WAITING_").lower(),
        "waiting_sentence": round.waiting_sentence,
        "participants": round.participants,
        "contributions": round.contributions,
        "contributions_needed": round.contributions_needed,
        "total_weight": round.total_weight,
        "deadline": round.deadline.ToJsonString() if round.HasField("deadline") else None,
        "last_contributions": round.last_contributions,
        "contributions_ever": round.contributions_ever,
        "policy": policy_document(round.policy),
        "privacy": privacy_document(round.privacy) if round.HasField("privacy") else None,
    }


def privacy_document(account: PrivacyAccount) -> dict[str, Any]:
    """`next_epsilon` is there in a round, where one more version may follow."""
    asked = account.parameters
    return {
        "clipping_norm": asked.clipping_norm,
        "noise_multiplier": asked.noise_multiplier,
        "delta": asked.delta,
        "epsilon_budget": asked.epsilon_budget,
        "noisy_versions": account.noisy_versions,
        "epsilon": account.epsilon,
    } | ({"next_epsilon": account.next_epsilon} if account.HasField("next_epsilon") else {})


def peer_round_document(round: PeerRound) -> dict[str, Any]:
    return {
        "task_id": round.task_id,
        "number": round.number,
        "waiting": PeerRound.Waiting.Name(round.waiting).removeprefix("WAITING_").lower(),
        "waiting_sentence": round.waiting_sentence,
        "peers_present": round.peers_present,
        "peers_ready": round.peers_ready,
        "min_peers": round.min_peers,
    }


def policy_document(policy: Policy) -> dict[str, Any]:
    quorum = policy.WhichOneof("quorum")
    return {
        "min_participants": policy.min_participants,
        "quorum_share": policy.quorum_share if quorum == "quorum_share" else None,
        "quorum_count": policy.quorum_count if quorum == "quorum_count" else None,
        "deadline_s": policy.deadline.ToNanoseconds() / 1e9,
        "staleness_weights": list(policy.staleness_weights),
        "max_total_weight": policy.max_total_weight,
        "max_samples": policy.max_samples if policy.HasField("max_samples") else None,
    }


def refusal_document(refusal: RefusedContribution) -> dict[str, Any]:
    return {
        "participant_id": refusal.participant_id,
        "round": refusal.round,
        "reason": refusal.reason,
        "sentence": refusal.sentence,
        "sha256": refusal.sha256.hex(),
        "refuse_time": refusal.refuse_time.ToJsonString(),
    }


def version_document(version: Version) -> dict[str, Any]:
    source = version.source
    return {
        "task_id": version.task_id,
        "number": version.number,
        "rule": version.rule,
        "weights_sha256": version.weights_sha256.hex(),
        "base_sha256": version.base_sha256.hex(),
        "create_time": version.create_time.ToJsonString(),
        "contributions": version.contributions,
        "total_weight": version.total_weight,
        "weight_cap": version.weight_cap,
        "merkle_root": version.merkle_root.hex(),
        "previous_entry_sha256": version.previous_entry_sha256.hex(),
        "entry_sha256": version.entry_sha256.hex(),
        "kept": version.kept,
        "restored_version": version.restored_version if version.HasField("restored_version") else None,
        "source": {
            "task_id": source.task_id,
            "version": source.version,
            "entry_sha256": source.entry_sha256.hex(),
        }
        if version.HasField("source")
        else None,
        "privacy": privacy_document(version.privacy) if version.HasField("privacy") else None,
    }


def receipt_document(receipt: Receipt) -> dict[str, Any]:
    return {
        "task_id": receipt.task_id,
        "round": receipt.round,
        "participant_id": receipt.participant_id,
        "sha256": receipt.sha256.hex(),
        "weight": receipt.weight,
        "position": receipt.position,
        "signature": receipt.signature.hex(),
        "key_id": receipt.key_id,
    }


def proof_document(proof: Proof) -> dict[str, Any]:
    return {
        "version": proof.version,
        "receipt": receipt_document(proof.receipt),
        "leaf": proof.leaf.hex(),
        "index": proof.index,
        "tree_size": proof.tree_size,
        "path": [step.hex() for step in proof.path],
        "root": proof.root.hex(),
    }


def receipt_key_document(key: ReceiptKey) -> dict[str, Any]:
    return {"key_id": key.key_id, "algorithm": "Ed25519", "public_key": key.public_key.hex(), "pem": key.pem}
