"""Reads a model that somebody pushes, in any spelling a client has for bytes and any body it has for models.

Nothing in it is executed and nothing is trusted: sizes are checked before
values are built. Knows nothing of layers; what a topology means is judged by
whoever keeps the task.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Final

import msgspec
from disco.task.v1.task_pb2 import Model, WeightSpec

from gateway.dialects import weights_document
from gateway.dialects.frame_reader import FrameReader
from learning.refusals import InvalidModel, MalformedMessage

ARRAY_BUFFER: Final = 0x1A
"""Extension under which weight data travel."""

MAX_DOCUMENT_BYTES: Final = 4 * 1024 * 1024
"""Of a topology, a training configuration, the weight specs: the largest known topology has a quarter of it."""

MAX_DEPTH: Final = 64
_UINT8_ARRAY: Final = 0x12
_SIZES: Final = {"float32": 4, "int32": 4, "bool": 1, "complex64": 8}
_NIL: Final = msgspec.Raw(b"\xc0")
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True, slots=True)
class PushedModel:
    """A model as it was pushed. `weights` are canonical, and empty where none were sent."""

    kind: Model.Kind.ValueType
    topology_json: bytes
    training_config_json: bytes
    weight_specs: tuple[tuple[str, tuple[int, ...]], ...]
    weights: bytes | memoryview

    def without_weights(self) -> Model:
        """The model as the task service takes it."""
        return Model(
            kind=self.kind,
            topology_json=self.topology_json,
            weight_specs=[WeightSpec(name=name, shape=shape) for name, shape in self.weight_specs],
            training_config_json=self.training_config_json,
        )


class _Artifacts(msgspec.Struct, rename="camel"):
    model_topology: msgspec.Raw = _NIL
    training_config: msgspec.Raw = _NIL
    weight_specs: msgspec.Raw = _NIL
    weight_data: msgspec.Raw = _NIL


class _Spec(msgspec.Struct):
    name: str
    shape: list[int]
    dtype: str = "float32"
    group: str | None = None
    quantization: msgspec.Raw = _NIL


def parse_pushed_model(value: object) -> PushedModel:
    """The model in the `model` field of an upload, parsed from JSON. Raises InvalidModel."""
    return parse_model_body(pushed_bytes(value))


def parse_model_body(body: bytes) -> PushedModel:
    """The model in bytes as a client encodes it. Raises InvalidModel."""
    if not body:
        raise InvalidModel(problem="it is empty")
    parts = [msgspec.Raw(body)] if 0x80 <= body[0] <= 0x8F or body[0] in (0xDE, 0xDF) else _parts(body)
    kind = bytes(parts[0]) if len(parts) > 1 else b"\x00"
    if kind == b"\x00" and len(parts) <= 2:
        return _layers(parts[-1])
    if kind == b"\x01" and 2 <= len(parts) <= 3:
        return _gpt(parts[1], parts[2] if len(parts) == 3 else _NIL)
    raise InvalidModel(problem="it is neither a TF.js model nor [0, model] nor [1, weights, configuration]")


def pushed_bytes(value: object) -> bytes:
    """Bytes that JSON carries as an array of numbers, a Node Buffer, an object with indices for keys, or base64."""
    if isinstance(value, str):
        try:
            return binascii.a2b_base64(value, strict_mode=True)
        except (binascii.Error, ValueError):
            raise InvalidModel(problem="it is a text, but not base64") from None
    if isinstance(value, Mapping) and value.get("type") == "Buffer":
        value = value.get("data")
    elif isinstance(value, Mapping):
        # JavaScript writes indices in ascending order.
        if not all(map(str.__eq__, value, map(str, range(len(value))))):
            raise InvalidModel(problem="it is an object whose keys are not the indices of its bytes")
        value = list(value.values())
    if not isinstance(value, list) or not all(map(isinstance, value, repeat(int))):
        raise InvalidModel(problem="it is no array of bytes")
    try:
        return bytes(value)
    except ValueError:
        raise InvalidModel(problem="it holds numbers that are no bytes") from None


def _parts(body: bytes) -> list[msgspec.Raw]:
    """The items of a body that is an array; at most three, so that a long one is never built."""
    if not 0x91 <= body[0] <= 0x93:
        raise InvalidModel(problem="its bytes are no model that a Disco client writes")
    try:
        return msgspec.msgpack.decode(body, type=list[msgspec.Raw])
    except _UNREADABLE as error:
        raise InvalidModel(problem=f"its bytes are not msgpack: {str(error)[:200]}") from None


def _layers(raw: msgspec.Raw) -> PushedModel:
    try:
        artifacts = msgspec.msgpack.decode(raw, type=_Artifacts)
    except _UNREADABLE as error:
        raise InvalidModel(problem=f"it has no artifacts of a TF.js model: {str(error)[:200]}") from None
    topology = _document(artifacts.model_topology, "topology")
    if not topology:
        raise InvalidModel(problem="it has no topology")
    specs = _specs(artifacts.weight_specs)
    kept = tuple((spec.name, tuple(spec.shape)) for spec in specs if spec.group != "optimizer")
    data = _payload(artifacts.weight_data)
    weights = b"" if data is None else _without_optimizer(data, specs)
    return PushedModel(
        Model.KIND_TFJS, topology, _document(artifacts.training_config, "training configuration"), kept, weights
    )


def _gpt(raw_weights: msgspec.Raw, raw_config: msgspec.Raw) -> PushedModel:
    data = memoryview(raw_weights)
    document = _payload(raw_weights)
    if document is None:
        try:
            document = FrameReader(bytes(data)).byte_array()
        except MalformedMessage as refusal:
            raise InvalidModel(problem=f"its weights: {refusal.variables['problem']}") from None
    weights, shapes = weights_document.decode(document, 4 * document.nbytes)
    config = _document(raw_config, "configuration") or b"{}"
    specs = tuple((f"weight_{index}", shape) for index, shape in enumerate(shapes))
    return PushedModel(Model.KIND_GPT, config, b"", specs, weights)


def _document(raw: msgspec.Raw, name: str) -> bytes:
    """A msgpack object as JSON; empty for nil."""
    if bytes(memoryview(raw)[:1]) == b"\xc0":
        return b""
    if memoryview(raw).nbytes > MAX_DOCUMENT_BYTES:
        raise InvalidModel(problem=f"its {name} is larger than {MAX_DOCUMENT_BYTES} bytes")
    try:
        value = msgspec.msgpack.decode(raw, type=dict[str, object])
        _check_depth(value, MAX_DEPTH, name)
        return msgspec.json.encode(value)
    # TypeError: an extension, or a key, that JSON has no word for.
    except (*_UNREADABLE, TypeError) as error:
        raise InvalidModel(problem=f"its {name} is no JSON object: {str(error)[:200]}") from None


def _check_depth(value: object, levels: int, name: str) -> None:
    if not levels:
        raise InvalidModel(problem=f"its {name} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _check_depth(item, levels - 1, name)


def _specs(raw: msgspec.Raw) -> list[_Spec]:
    if memoryview(raw).nbytes > MAX_DOCUMENT_BYTES:
        raise InvalidModel(problem=f"its weight specs are larger than {MAX_DOCUMENT_BYTES} bytes")
    try:
        specs = msgspec.msgpack.decode(raw, type=list[_Spec] | None) or []
    except _UNREADABLE as error:
        raise InvalidModel(problem=f"its weight specs cannot be read: {str(error)[:200]}") from None
    for spec in specs:
        _check_spec(spec)
    if len({spec.name for spec in specs}) != len(specs):
        raise InvalidModel(problem="two of its weights have the same name")
    return specs


def _check_spec(spec: _Spec) -> None:
    if bytes(memoryview(spec.quantization)[:1]) != b"\xc0":
        raise InvalidModel(problem=f"weight {spec.name} is quantized; save the model without quantization")
    if spec.dtype != "float32" and not (spec.group == "optimizer" and spec.dtype in _SIZES):
        raise InvalidModel(problem=f"weight {spec.name} is of type {spec.dtype}; weights must be float32")
    if len(spec.shape) > weights_document.MAX_DIMENSIONS or not all(0 <= size < 2**32 for size in spec.shape):
        raise InvalidModel(problem=f"the shape of weight {spec.name} is not possible")


def _without_optimizer(data: memoryview, specs: list[_Spec]) -> bytes:
    """The canonical weights: the data without the optimizer's slots."""
    kept, at = [], 0
    for spec in specs:
        end = at + _SIZES[spec.dtype] * math.prod(spec.shape)
        if spec.group != "optimizer":
            kept.append(data[at:end])
        at = end
    if at != data.nbytes:
        raise InvalidModel(problem=f"its weights have {data.nbytes} bytes, its weight specs announce {at}")
    return b"".join(kept)


def _payload(raw: msgspec.Raw) -> memoryview | None:
    """The bytes in an extension for bytes, or in bin; None where there are none."""
    item = memoryview(raw)
    tag = item[0]
    if tag in (0xC4, 0xC5, 0xC6):
        return item[1 + (1 << (tag - 0xC4)) :]
    head = 1 + (1 << (tag - 0xC7)) if 0xC7 <= tag <= 0xC9 else 1 if 0xD4 <= tag <= 0xD8 else 0
    if head and item[head] in (ARRAY_BUFFER, _UINT8_ARRAY):
        return item[head + 1 :]
    return None
