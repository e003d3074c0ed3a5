"""The dialect G21: the clients of version 2.1.1, federated and decentralized.

Owns this generation's message numbers and field names (protocol sections 2.1
and 2.2). Knows no task, no round and no socket.

      federated              client → server                     server → client
       0  clientConnected    Hello                               Welcome
       8  postWeights        Contribute
       9  postMetadata       PutMetadata
      10  getMetadataMap     PullMetadata                        MetadataMap
      11  latestServerRound  PullLatest                          Latest
      13  pullStatistics     PullStatistics                      Statistics
      decentralized
       0, 1                  Hello (0)                           PeerWelcome (1)
       2  SignalForPeer      SignalTo                            SignalFrom
       3, 4                  MarkReady (3)                       PeersForRound (4)

Peers are numbers in this generation: a peer id is one in decimal.
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
    EncodedWeights,
    Hello,
    Latest,
    MarkReady,
    MetadataMap,
    PeersForRound,
    PeerWelcome,
    PullLatest,
    PullMetadata,
    PullStatistics,
    PutMetadata,
    Room,
    ServerMessage,
    Shapes,
    SignalFrom,
    SignalTo,
    Statistics,
    Welcome,
)
from gateway.dialects.weights_document import in_memory
from learning.refusals import MalformedMessage
from learning.task import Task

MANNERS: Final = Manners(
    welcome_holds_version=False,
    answering=Answering.NOTHING,
    answer_within_s=None,
    peer_protocol="g21",
    # They go on alone after 10 seconds (protocol section 4.7).
    peer_patience_s=9.0,
)


class G21:
    """Speaks G21. Stateless."""

    @property
    def name(self) -> str:
        return "g21"

    @property
    def manners(self) -> Manners:
        return MANNERS

    def decode_federated(self, frame: bytes, limit: int, room: Room = in_memory) -> ClientMessage:
        fields = federated_fields(frame, limit, weights="weights")
        match kind := fields.count("type"):
            case 0:
                return Hello()
            case 8:
                return fields.contribution(limit, room)
            case 9:
                return PutMetadata(fields.count("round"), fields.text("metadataId"), fields.text("metadata"))
            case 10:
                return PullMetadata(fields.count("round"), fields.text("metadataId"))
            case 11:
                return PullLatest()
            case 13:
                return PullStatistics()
        raise MalformedMessage(problem=f"type {kind} is no message to a federated task")

    def decode_decentralized(self, frame: bytes) -> ClientMessage:
        fields = peer_fields(frame)
        match kind := fields.count("type"):
            case 0:
                return Hello()
            case 2:
                return SignalTo(str(fields.count("peer")), fields.signal())
            case 3:
                return MarkReady()
        raise MalformedMessage(problem=f"type {kind} is no message to a decentralized task")

    def encode(self, message: ServerMessage) -> bytes:
        return msgspec.msgpack.encode(_fields_of(message))

    def encode_weights(self, weights: bytes | memoryview, shapes: Shapes) -> EncodedWeights:
        # This generation reads bin where it would write an array of bytes, and float32 where it would write
        # float64 (protocol section 2.5): five bytes a weight, not thirteen.
        return EncodedWeights(msgspec.msgpack.encode(weights_document.encode_numbers(weights, shapes)))

    def render_task(self, task: Task) -> dict[str, object]:
        return task_documents.render_g21(task)

    def render_model(self, model: Model, weights: bytes | memoryview) -> ModelBody:
        return model_bodies.render_g21(model, weights)

    def render_head(self, model: Model, weights_size: int) -> ModelHead | None:
        return model_bodies.g21_head(model, weights_size)


def _fields_of(message: ServerMessage) -> dict[str, object]:
    match message:
        case Welcome():
            return {"type": 0}
        case PeerWelcome(peer_id):
            return {"type": 1, "id": int(peer_id)}
        case SignalFrom(peer_id, body):
            return {"type": 2, "peer": int(peer_id), "signal": msgspec.Raw(body)}
        case PeersForRound(peer_ids, _):
            return {"type": 4, "peers": [int(peer_id) for peer_id in peer_ids]}
        case MetadataMap():
            return {
                "type": 10,
                "taskId": message.task_id,
                "clientId": message.participant_id,
                "round": message.round,
                "metadataId": message.key,
                "metadataMap": message.entries,
            }
        case Latest(round, weights):
            return {"type": 11, "round": round, "weights": msgspec.Raw(weights)}
        case Statistics():
            return {
                "type": 13,
                "statistics": {
                    "round": message.round,
                    "currentNumberOfParticipants": message.current,
                    "totalNumberOfParticipants": message.total,
                    "averageNumberOfParticipants": message.average,
                },
            }
        case _:
            raise AssertionError(f"this generation knows no {type(message).__name__}")
