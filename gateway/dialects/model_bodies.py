"""Models as the bodies that client generations read (protocol sections 3.1 and 3.3).

The way back is `parse_pushed_model` in `gateway.dialects.model_uploads`. A head is
what can be sent before the weights are there. Knows no
HTTP, and nothing of layers: a topology is a JSON object that passes through.

    g21        JSON array of the bytes of msgpack(ART)
    g22 g30    msgpack([0, ART]);  GPT: msgpack([1, W, config]), W an array of byte numbers
    gdv        msgpack([0, ART]);  GPT: msgpack([1, W, config]), W as bin
    tfjs       model.json of a LayersModel, its weights in `weights.bin`: the canonical bytes
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from disco.task.v1.task_pb2 import Model

from gateway.dialects import byte_array, weights_document
from gateway.dialects.dialect import ModelBody, ModelHead
from gateway.dialects.messages import Shapes
from gateway.dialects.model_uploads import ARRAY_BUFFER, PushedModel, parse_pushed_model
from learning.refusals import InvalidModel, TooLarge
from learning.task import Task

__all__ = [
    "PushedModel",
    "g21_head",
    "layers_head",
    "parse_pushed_model",
    "render_g21",
    "render_g22",
    "render_gdv",
    "render_tfjs",
    "shapes_of",
    "tfjs_head",
    "training_config_of",
]

_JSON: Final = "application/json"
_BINARY: Final = "application/octet-stream"
_GENERATED_BY: Final = "Disco"
_TFJS, _GPT = 0, 1
"""How a body says what kind of model follows."""
_EMPTY_BUFFER: Final = bytes((0xC7, 0, ARRAY_BUFFER))
"""An ArrayBuffer of no bytes in msgpack."""

_OPTIMIZERS: Final = {
    "sgd": "SGD",
    "momentum": "Momentum",
    "rmsprop": "RMSProp",
    "adam": "Adam",
    "adamax": "Adamax",
    "adagrad": "Adagrad",
    "adadelta": "Adadelta",
}
# Each number as JSON, four characters wide: a little-endian word per byte, so that one lookup writes them.
_WIDE_NUMBERS: Final = np.frombuffer(b"".join(f"{number:>3},".encode() for number in range(256)), "<u4")


def render_g21(model: Model, weights: bytes | memoryview) -> ModelBody:
    _require_layers(model)
    return ModelBody(_JSON, json_byte_array(_msgpack(_artifacts(model, weights))))


def render_g22(model: Model, weights: bytes | memoryview) -> ModelBody:
    """For G22 and G30, which read the same bytes."""
    if model.kind == Model.KIND_GPT:
        document = weights_document.encode_numbers(weights, shapes_of(model))
        return _gpt(model, msgspec.Raw(byte_array.encode(document)))
    return _layers(model, weights)


def render_gdv(model: Model, weights: bytes | memoryview) -> ModelBody:
    if model.kind == Model.KIND_GPT:
        return _gpt(model, weights_document.encode_float32_arrays(weights, shapes_of(model)))
    return _layers(model, weights)


def render_tfjs(model: Model, weights: bytes | memoryview) -> ModelBody:
    """The topology alone: what `weights.bin` beside it must hold are the canonical weights as they are."""
    head = tfjs_head(model, len(memoryview(weights).cast("B")))
    return ModelBody(head.content_type, head.octets)


def g21_head(model: Model, weights_size: int) -> ModelHead | None:
    """There is none: the weights are written as decimal numbers."""
    _require_layers(model)
    return None


def layers_head(model: Model, weights_size: int) -> ModelHead | None:
    """For G22, G30 and GDV: the weights of layers end the body as they are; those of a GPT are written otherwise."""
    if model.kind == Model.KIND_GPT:
        return None
    _require_layers(model)
    if not model.training_config_json:
        raise InvalidModel(problem="it has no training configuration, and these clients refuse a model without")
    head = _msgpack([_TFJS, _artifacts(model, b"")])
    assert head.endswith(_EMPTY_BUFFER), "the weights come last"
    return ModelHead(_BINARY, head.removesuffix(_EMPTY_BUFFER) + _array_buffer_header(weights_size), True)


def tfjs_head(model: Model, weights_size: int) -> ModelHead:
    """The whole of it: the weights are in a file of their own."""
    _require_layers(model)
    assert weights_size == 4 * sum(np.prod(shape, dtype=int) for shape in shapes_of(model))
    manifest = [{"paths": ["weights.bin"], "weights": _weight_specs(model)}]
    return ModelHead(_JSON, msgspec.json.encode(_description(model) | {"weightsManifest": manifest}), False)


def json_byte_array(document: bytes) -> bytes:
    """`[1,2,3]`, by one table lookup for all bytes and one pass that drops the padding."""
    if not document:
        return b"[]"
    wide = _WIDE_NUMBERS.take(np.frombuffer(document, np.uint8)).tobytes()
    return b"[" + wide.translate(None, b" ")[:-1] + b"]"


def shapes_of(model: Model) -> Shapes:
    """The shapes of a model's weights, in the order in which they travel."""
    return tuple(tuple(spec.shape) for spec in model.weight_specs)


def training_config_of(task: Task) -> bytes:
    """The `training_config_json` of a model that was uploaded without one: what the task says of compiling it.

    Clients from G22 on refuse a model without (protocol section 3.1).
    """
    training = task.training
    optimizer = _OPTIMIZERS.get(training.optimizer.lower(), training.optimizer)
    config = {} if training.learning_rate is None else {"learning_rate": training.learning_rate}
    return msgspec.json.encode(
        {
            "loss": training.loss,
            "metrics": training.metrics,
            "optimizer_config": {"class_name": optimizer, "config": config},
        }
    )


def _layers(model: Model, weights: bytes | memoryview) -> ModelBody:
    octets = memoryview(weights).cast("B")
    head = layers_head(model, len(octets))
    assert head is not None, "only a GPT has none"
    return ModelBody(head.content_type, b"".join((head.octets, octets)))


def _array_buffer_header(size: int) -> bytes:
    """As msgpack writes an extension of `size` bytes."""
    if size in (1, 2, 4, 8, 16):
        return bytes((0xD4 + size.bit_length() - 1, ARRAY_BUFFER))
    for code, width in ((0xC7, 1), (0xC8, 2), (0xC9, 4)):
        if size < 1 << 8 * width:
            return bytes((code,)) + size.to_bytes(width, "big") + bytes((ARRAY_BUFFER,))
    raise TooLarge(limit_bytes=(1 << 32) - 1)


def _gpt(model: Model, encoded_weights: bytes | msgspec.Raw) -> ModelBody:
    config = _json_object(model.topology_json, "configuration")
    return ModelBody(_BINARY, _msgpack([_GPT, encoded_weights, config]))


def _artifacts(model: Model, weights: bytes | memoryview) -> dict[str, object]:
    return _description(model) | {
        "weightSpecs": _weight_specs(model),
        # Never bin: G21 cannot load that, and GDV loads garbage without a word.
        "weightData": msgspec.msgpack.Ext(ARRAY_BUFFER, weights),
    }


def _description(model: Model) -> dict[str, object]:
    described: dict[str, object] = {
        "modelTopology": _json_object(model.topology_json, "topology"),
        "format": "layers-model",
        "generatedBy": _GENERATED_BY,
        "convertedBy": None,
    }
    if model.training_config_json:
        described["trainingConfig"] = _json_object(model.training_config_json, "training configuration")
    return described


def _weight_specs(model: Model) -> list[dict[str, object]]:
    return [{"name": spec.name, "shape": list(spec.shape), "dtype": "float32"} for spec in model.weight_specs]


def _require_layers(model: Model) -> None:
    if model.kind != Model.KIND_TFJS:
        raise InvalidModel(problem="it is no TF.js LayersModel, and these clients run no other")


def _msgpack(value: object) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except OverflowError:
        raise InvalidModel(problem="it holds an integer of more than 64 bits") from None


def _json_object(text: bytes, name: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise InvalidModel(problem=f"its {name} is no JSON object: {error}") from None
