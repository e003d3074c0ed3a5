"""The dialect G30: the clients of version 3.0. As G22, without metadata, and with another answer to contributions.

federated                   client → server              server → client
 0, 1                       Hello (0)                    Welcome (1)
 6  SendPayload             Contribute, Unusable…
 7  ReceiveServerPayload                                 ContributionAnswer
"""

from __future__ import annotations

import msgspec
from disco.task.v1.task_pb2 import Model

from gateway.dialects import model_bodies, task_documents, weights_document
from gateway.dialects.dialect import ModelBody, ModelHead
from gateway.dialects.frame_fields import federated_fields
from gateway.dialects.g22 import G22, MANNERS, fields_shared_with_g30
from gateway.dialects.manners import Manners
from gateway.dialects.messages import (
    ClientMessage,
    ContributionAnswer,
    EncodedWeights,
    Hello,
    Room,
    ServerMessage,
    Shapes,
)
from gateway.dialects.weights_document import in_memory
from learning.refusals import MalformedMessage
from learning.task import Task


class G30:
    """Speaks G30. Stateless."""

    @property
    def name(self) -> str:
        return "g30"

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
        raise MalformedMessage(problem=f"type {kind} is no message to a federated task")

    def decode_decentralized(self, frame: bytes) -> ClientMessage:
        return G22().decode_decentralized(frame)

    def encode(self, message: ServerMessage) -> bytes:
        match message:
            case ContributionAnswer(round, weights, participants):
                fields: dict[str, object] = {
                    "type": 7,
                    "round": round,
                    "payload": msgspec.Raw(weights),
                    "nbOfParticipants": participants,
                }
            case _:
                fields = fields_shared_with_g30(message)
        return msgspec.msgpack.encode(fields)

    def encode_weights(self, weights: bytes | memoryview, shapes: Shapes) -> EncodedWeights:
        # As for G21: bin where they would write an array of bytes, float32 where they would write float64.
        return EncodedWeights(msgspec.msgpack.encode(weights_document.encode_numbers(weights, shapes)))

    def render_task(self, task: Task) -> dict[str, object]:
        return task_documents.render_g30(task)

    def render_model(self, model: Model, weights: bytes | memoryview) -> ModelBody:
        return model_bodies.render_g22(model, weights)

    def render_head(self, model: Model, weights_size: int) -> ModelHead | None:
        return model_bodies.layers_head(model, weights_size)
