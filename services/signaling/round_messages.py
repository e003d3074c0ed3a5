"""The round of a decentralized task as a message of disco.signaling.v1. Decides nothing."""

from __future__ import annotations

from disco.signaling.v1.signaling_service_pb2 import PeerRound

from learning.decentralized import DecentralizedRound, waiting_for
from learning.task import Task


def peer_round_message(task: Task, round: DecentralizedRound) -> PeerRound:
    waiting, sentence = waiting_for(round, task.policy)
    return PeerRound(
        task_id=task.task_id,
        number=round.number,
        revision=round.revision,
        peers_present=len(round.seats),
        peers_ready=len(round.marks),
        min_peers=task.policy.min_participants,
        waiting=PeerRound.Waiting.Value(f"WAITING_{waiting.name}"),
        waiting_sentence=sentence,
    )
