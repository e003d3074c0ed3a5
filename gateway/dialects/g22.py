"""The dialect G22: the clients of version 2.2, federated and decentralized.

Owns this generation's message numbers and field names (protocol sections 2.1
and 2.2). Knows no task, no round and no socket.

      federated                   client → server              server → client
       0, 1                       Hello (0)                    Welcome (1)
       6  SendPayload             Contribute, Unusable…
       7  ReceiveServerMetadata   PullMetadata                 MetadataMap
       8  ReceiveServerPayload                                 ContributionAnswer
      decentralized
       0, 1                       Hello (0)                    PeerWelcome (1)
       2  SignalForPeer           SignalTo                     SignalFrom
       3, 4                       MarkReady (3)                PeersForRound (4)
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
    Hello,
    MarkReady,
    MetadataMap,
    PeersForRound,
    PeerWelcome,
    PullMetadata,
    Room,
    ServerMessage,
    Shapes,
    SignalFrom,
    SignalTo,
    Welcome,
)
from gateway.dialects.weights_document import in_memory
from learning.refusals import MalformedMessage
from learning.task import Task

MANNERS: Final = Manners(
    welcome_holds_version=False,
    answering=Answering.WITH_ECHO,
    # They wait 15 seconds from when they began to send (protocol section 4.7).
    answer_within_s=13.0,
    peer_protocol="g22",
    peer_patience_s=14.0,
)
"""Those of G30, too: the two complete rounds with each other, federated and decentralized."""


class G22:
    """Speaks G22. Stateless."""

    @property
    def name(self) -> str:
        return "g22"

    @property
    def manners(self) -> Manners:
        return MANNERS

    def decode_federated(self, frame: bytes, limit: int, room: Room = in_memory) -> ClientMessage:
        fields = federated_fields(frame, limit, weights="payload")
        match kind := fields.count("type"):
            case 0:
                return Hello()
            case 6:
                return fields.contribution(limit, room)
            case 7:
                return PullMetadata(fields.count("round"), fields.text("key"))
        raise MalformedMessage(problem=f"type {kind} is no message to a federated task")

    def decode_decentralized(self, frame: bytes) -> ClientMessage:
        fields = peer_fields(frame)
        match kind := fields.count("type"):
            case 0:
                return Hello()
            case 2:
                return SignalTo(fields.text("peer"), fields.signal())
            case 3:
                return MarkReady()
        raise MalformedMessage(problem=f"type {kind} is no message to a decentralized task")

    def encode(self, message: ServerMessage) -> bytes:
        match message:
            case ContributionAnswer(round, weights, _):
                fields: dict[str, object] = {"type": 8, "round": round, "payload": msgspec.Raw(weights)}
            case MetadataMap():
                fields = {
                    "type": 7,
                    "taskId": message.task_id,
                    "nodeId": message.participant_id,
                    "round": message.round,
                    "key": message.key,
                    "metadataMap": message.entries,
                }
            case _:
                fields = fields_shared_with_g30(message)
        return msgspec.msgpack.encode(fields)

    def encode_weights(self, weights: bytes | memoryview, shapes: Shapes) -> EncodedWeights:
        # As for G21: bin where they would write an array of bytes, float32 where they would write float64.
        return EncodedWeights(msgspec.msgpack.encode(weights_document.encode_numbers(weights, shapes)))

    def render_task(self, task: Task) -> dict[str, object]:
        return task_documents.render_g22(task)

    def render_model(self, model: Model, weights: bytes | memoryview) -> ModelBody:
        return model_bodies.render_g22(model, weights)

    def render_head(self, model: Model, weights_size: int) -> ModelHead | None:
        return model_bodies.layers_head(model, weights_size)


def fields_shared_with_g30(message: ServerMessage) -> dict[str, object]:
    """The messages that both generations spell in the same way."""
    match message:
        case Welcome(node_id) | PeerWelcome(node_id):
            return {"type": 1, "id": node_id}
        case SignalFrom(peer_id, body):
            return {"type": 2, "peer": peer_id, "signal": msgspec.Raw(body)}
        case PeersForRound(peer_ids, _):
            return {"type": 4, "peers": peer_ids}
        case _:
            raise AssertionError(f"this generation knows no {type(message).__name__}")
