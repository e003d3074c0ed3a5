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
from gateway.dialects.dialect import ModelBody
from gateway.dialects.frame_reader import FrameReader
from gateway.dialects.messages import (
    ClientMessage,
    Contribute,
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
    ServerMessage,
    Shapes,
    SignalFrom,
    SignalTo,
    Statistics,
    Welcome,
)
from learning.refusals import MalformedMessage, TooLarge
from learning.task import Task

MAX_PEER_FRAME_BYTES: Final = 64 * 1024
"""Frames of decentralized tasks carry session descriptions, never weights."""


class G21:
    """Speaks G21. Stateless."""

    @property
    def name(self) -> str:
        return "g21"

    def decode_federated(self, frame: bytes, limit: int) -> ClientMessage:
        if len(frame) > limit:
            raise TooLarge(limit_bytes=limit)
        fields = _Fields(frame)
        match kind := fields.count("type"):
            case 0:
                return Hello()
            case 8:
                number = fields.count("round")
                weights, shapes = weights_document.decode(fields.weights(), limit)
                return Contribute(weights, shapes, number)
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
        if len(frame) > MAX_PEER_FRAME_BYTES:
            raise TooLarge(limit_bytes=MAX_PEER_FRAME_BYTES)
        fields = _Fields(frame)
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


class _Fields:
    """The fields of a frame, found but not read; except the weights, whose end only reading them finds."""

    def __init__(self, frame: bytes) -> None:
        self._frame = frame
        self._spans: dict[str, tuple[int, int]] = {}
        self._weights: memoryview | None = None
        reader = FrameReader(frame)
        for _ in range(reader.map_size()):
            key = reader.text()
            if key in self._spans:
                raise MalformedMessage(problem=f"it has the field {key[:64]!r} twice")
            start = reader.at
            if key == "weights":
                self._weights = reader.byte_array()
            else:
                reader.skip()
            self._spans[key] = start, reader.at
        reader.end()

    def count(self, key: str) -> int:
        return self._reader(key).count()

    def text(self, key: str) -> str:
        return self._reader(key).text()

    def weights(self) -> memoryview:
        if self._weights is None:
            raise MalformedMessage(problem="it has no field 'weights'")
        return self._weights

    def signal(self) -> bytes:
        """The encoding of a signal, unread. It is what simple-peer makes: a map of plain values.

        Anything else would be thrown by the receiver's library and end the receiver, not the sender.
        """
        reader = self._reader("signal")
        if not reader.is_map():
            raise MalformedMessage(problem="the signal is no map")
        reader.skip(extensions=False)
        start, end = self._spans["signal"]
        return self._frame[start:end]

    def _reader(self, key: str) -> FrameReader:
        if key not in self._spans:
            raise MalformedMessage(problem=f"it has no field {key!r}")
        reader = FrameReader(self._frame)
        reader.at = self._spans[key][0]
        return reader


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
