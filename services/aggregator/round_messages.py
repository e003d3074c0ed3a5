"""Rounds and admissions as messages of disco.aggregator.v1. Knows both forms, and decides nothing."""

from __future__ import annotations

from disco.aggregator.v1 import aggregator_service_pb2, round_pb2
from disco.task.v1 import task_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from blobstore.records import PrivacyAccount
from learning.federated import Admission, RoundStatus, State, contributions_needed, round_deadline
from learning.ids import TaskId
from learning.receipts import Statement
from learning.waiting import waiting_for
from roundstore.store import NotedRefusal
from rpc.task_messages import policy_to_proto
from services.aggregator.privacy_accounts import Standing
from services.aggregator.receipt_key import ReceiptKey


def round_message(status: RoundStatus, standing: Standing | None) -> round_pb2.Round:
    """`standing`: with the task's privacy budget; None where it has none."""
    waits_for, sentence = waiting_for(status)
    waiting = round_pb2.Round.Waiting.Value(f"WAITING_{waits_for.name}")
    if standing is not None and standing.is_spent and status.state is State.COLLECTING:
        waiting, sentence = round_pb2.Round.WAITING_PRIVACY_BUDGET, str(standing.refusal(status.task_id))
    message = round_pb2.Round(
        task_id=status.task_id,
        number=status.number,
        state=_STATES[status.state],
        revision=status.revision,
        version=status.number,
        participants=status.participants,
        contributions=status.contributions,
        contributions_needed=contributions_needed(status),
        total_weight=status.total_weight,
        waiting=waiting,
        waiting_sentence=sentence,
        last_contributions=status.last_contributions,
        contributions_ever=status.contributions_ever,
        policy=policy_to_proto(status.policy),
    )
    deadline = round_deadline(status)
    if deadline is not None:
        message.deadline.CopyFrom(_timestamp(deadline))
    if standing is not None:
        message.privacy.CopyFrom(privacy_message(standing.account))
        message.privacy.next_epsilon = standing.next_epsilon
    return message


def privacy_message(account: PrivacyAccount) -> round_pb2.PrivacyAccount:
    return round_pb2.PrivacyAccount(
        parameters=task_pb2.CentralPrivacy(
            clipping_norm=account.clipping_norm,
            noise_multiplier=account.noise_multiplier,
            delta=account.delta,
            epsilon_budget=account.epsilon_budget,
        ),
        noisy_versions=account.noisy_versions,
        epsilon=account.epsilon,
    )


def refusal_message(refusal: NotedRefusal) -> aggregator_service_pb2.RefusedContribution:
    return aggregator_service_pb2.RefusedContribution(
        participant_id=refusal.participant_id,
        round=refusal.round,
        reason=refusal.reason,
        sentence=refusal.sentence,
        sha256=bytes.fromhex(refusal.digest),
        refuse_time=_timestamp(refusal.refused_at),
    )


def statement_of(task_id: TaskId, admission: Admission) -> Statement:
    """What the receipt of an admission states."""
    return Statement(
        task_id=task_id,
        round=admission.round,
        participant_id=admission.participant_id,
        digest=admission.digest,
        weight=admission.weight,
        position=admission.position,
    )


def receipt_message(statement: Statement, key: ReceiptKey) -> round_pb2.Receipt:
    return round_pb2.Receipt(
        task_id=statement.task_id,
        round=statement.round,
        participant_id=statement.participant_id,
        sha256=bytes.fromhex(statement.digest),
        weight=statement.weight,
        position=statement.position,
        signature=key.sign(statement),
        key_id=key.key_id,
    )


def receipt_key_message(key: ReceiptKey) -> round_pb2.ReceiptKey:
    return round_pb2.ReceiptKey(key_id=key.key_id, public_key=key.public_key, pem=key.pem)


def duration_message(seconds: float) -> Duration:
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


_STATES = {
    State.COLLECTING: round_pb2.Round.STATE_COLLECTING,
    State.AGGREGATING: round_pb2.Round.STATE_AGGREGATING,
}


def _timestamp(seconds: float) -> Timestamp:
    message = Timestamp()
    message.FromNanoseconds(round(seconds * 1e9))
    return message
