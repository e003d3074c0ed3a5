"""The dialect GDV: the clients of the development version of October 2024, federated and decentralized.

Owns this generation's message numbers and field names (protocol sections 2.1
and 2.2). Knows no task, no round and no socket.

      federated                   client → server              server → client
       0  ClientConnected         Hello
       7  NewFederatedNodeInfo                                 VersionedWelcome
       9  EnoughParticipants                                   EnoughParticipants
      10  SendPayload             Contribute, Unusable…
      11  ReceiveServerPayload                                 ContributionAnswer
      decentralized
       0, 1                       Hello (0)                    PeerWelcome (1)
       2  JoinRound               JoinRound
       3, 4                       MarkReady (3)                PeersForRound (4)
       5  SignalForPeer           SignalTo                     SignalFrom

WaitingForMoreParticipants (8) is never sent: a client throws when it comes at the
wrong moment, and holding the answer to its contribution says the same (protocol
section 4.4).
"""

from __future__ import annotations

from typing import Final

import msgspec
from disco.task.v1.task_pb2 import Model

from gateway.dialects import model_bodies, task_documents, weights_document
from gateway.dialects.dialect import ModelBody, ModelHead
from gateway.dialects.frame_fields import federated_fields, peer_fields
from gateway.dialects.manners import Answering, Manners
from gateway.dialects.messages import (
    ClientMessage,
    ContributionAnswer,
    EncodedWeights,
    EnoughParticipants,
    Hello,
    JoinRound,
    MarkReady,
    PeersForRound,
    PeerWelcome,
    Room,
    ServerMessage,
    Shapes,
    SignalFrom,
    SignalTo,
    VersionedWelcome,
)
from gateway.dialects.weights_document import in_memory
from learning.refusals import MalformedMessage
from learning.task import Task

MANNERS: Final = Manners(
    welcome_holds_version=True,
    answering=Answering.WITH_ROUND,
    answer_within_s=None,
    peer_protocol="gdv",
    peer_patience_s=None,
)


class GDV:
    """Speaks GDV. Stateless."""

    @property
    def name(self) -> str:
        return "gdv"

    @property
    def manners(self) -> Manners:
        return MANNERS

    def decode_federated(self, frame: bytes, limit: int, room: Room = in_memory) -> ClientMessage:
        fields = federated_fields(frame, limit, weights="payload")
        match kind := fields.count("type"):
            case 0:
                return Hello()
            case 10:
                return fields.contribution(limit, room)
        raise MalformedMessage(problem=f"type {kind} is no message to a federated task")

    def decode_decentralized(self, frame: bytes) -> ClientMessage:
        fields = peer_fields(frame)
        match kind := fields.count("type"):
            case 0:
                return Hello()
            case 2:
                return JoinRound()
            case 3:
                return MarkReady()
            case 5:
                return SignalTo(fields.text("peer"), fields.signal())
        raise MalformedMessage(problem=f"type {kind} is no message to a decentralized task")

    def encode(self, message: ServerMessage) -> bytes:
        return msgspec.msgpack.encode(_fields_of(message))

    def encode_weights(self, weights: bytes | memoryview, shapes: Shapes) -> EncodedWeights:
        return EncodedWeights(msgspec.msgpack.encode(weights_document.encode_float32_arrays(weights, shapes)))

    def render_task(self, task: Task) -> dict[str, object]:
        return task_documents.render_gdv(task)

    def render_model(self, model: Model, weights: bytes | memoryview) -> ModelBody:
        return model_bodies.render_gdv(model, weights)

    def render_head(self, model: Model, weights_size: int) -> ModelHead | None:
        return model_bodies.layers_head(model, weights_size)


def _fields_of(message: ServerMessage) -> dict[str, object]:
    match message:
        case PeerWelcome(peer_id):
            # It need not be told to wait: where peers are too few, its list comes when they are enough.
            return {"type": 1, "id": peer_id, "waitForMoreParticipants": False}
        case PeersForRound(peer_ids, round):
            return {"type": 4, "peers": peer_ids, "aggregationRound": round}
        case SignalFrom(peer_id, body):
            return {"type": 5, "peer": peer_id, "signal": msgspec.Raw(body)}
        case VersionedWelcome():
            return {
                "type": 7,
                "id": message.participant_id,
                "waitForMoreParticipants": message.must_wait,
                "payload": msgspec.Raw(message.weights),
                "round": message.round,
                "nbOfParticipants": message.participants,
            }
        case EnoughParticipants():
            return {"type": 9}
        case ContributionAnswer(round, weights, participants):
            return {"type": 11, "round": round, "payload": msgspec.Raw(weights), "nbOfParticipants": participants}
        case _:
            raise AssertionError(f"this generation knows no {type(message).__name__}")
