"""What a dialect is: how one client generation speaks.

Two contracts. A `Rendering` writes documents for HTTP (tasks and models); a
`Dialect` is a rendering that also has a codec for sockets. Both are pure: no
I/O, no clock, no state. Which one a connection speaks is decided in
`gateway.dialects.negotiation`; `gateway.dialects.registry` holds them by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from disco.task.v1.task_pb2 import Model

from gateway.dialects.manners import Manners
from gateway.dialects.messages import ClientMessage, EncodedWeights, Room, ServerMessage, Shapes
from gateway.dialects.weights_document import in_memory
from learning.task import Task


@dataclass(frozen=True, slots=True)
class ModelBody:
    """The answer to a request for a model."""

    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ModelHead:
    """What of such an answer depends on no weight: the whole of it, or, where `weights_follow`, all before them."""

    content_type: str
    octets: bytes
    weights_follow: bool


class Rendering(Protocol):
    """Documents over HTTP for one client generation."""

    @property
    def name(self) -> str:
        """The dialect's name: `g21`, `g22`, `g30`, `gdv`, `tfjs`, `superset`."""

    def render_task(self, task: Task) -> dict[str, object]:
        """The task as a JSON object that this generation's validator accepts. Never null for absent."""

    def render_model(self, model: Model, weights: bytes | memoryview) -> ModelBody:
        """The model with `weights` (canonical, of `model.weight_specs`) as this generation reads it.

        Raises InvalidModel where this generation cannot run such a model.
        """

    def render_head(self, model: Model, weights_size: int) -> ModelHead | None:
        """The same body up to its `weights_size` bytes of canonical weights; None where they do not stand in it as
        they are.

        Raises InvalidModel as `render_model` does.
        """


class Dialect(Rendering, Protocol):
    """A rendering whose generation can also be spoken with over a socket.

    The decoders are total: whatever the bytes are, they return a message or raise one of MalformedMessage,
    InvalidWeights, WeightsNotFinite, TooLarge; and they hold no more memory than a small multiple of the frame's size.
    """

    @property
    def manners(self) -> Manners:
        """What sessions must know of this generation's clients."""

    def decode_federated(self, frame: bytes, limit: int, room: Room = in_memory) -> ClientMessage:
        """The message in a frame on a federated task's socket; weights in it are put into `room`.

        Raises TooLarge where the frame, or the weights in it as float32, exceed `limit` bytes.
        """

    def decode_decentralized(self, frame: bytes) -> ClientMessage:
        """The message in a frame on a decentralized task's socket."""

    def encode(self, message: ServerMessage) -> bytes:
        """The frame that says `message`. A message this generation does not know is a bug of the caller."""

    def encode_weights(self, weights: bytes | memoryview, shapes: Shapes) -> EncodedWeights:
        """Canonical weights as this generation reads them; made once per version and spliced."""
