"""A TF.js model as Keras builds it: its layers in their order, their calls numbered anew, in the words of Keras 2.

What nobody reads from is left out. Where TF.js and Keras mean different things by leaving a
value out, the value is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from services.task_service.conversion.documents import document_of
from services.task_service.conversion.keras_layers import ALWAYS, KEPT
from services.task_service.topology.graph import Call, Network
from services.task_service.topology.layer import Shape
from services.task_service.topology.weights import network_of_topology

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WORDS = ("data_format", "padding", "activation", "recurrent_activation", "merge_mode", "interpolation", "mode")
"""Keys whose values TF.js may write in camelCase."""
_INITIALIZERS = {"LeCunNormal": "LecunNormal", "LeCunUniform": "LecunUniform"}
_WRITTEN: Final[Mapping[str, Mapping[str, object]]] = {
    "LSTM": {"recurrent_activation": "hard_sigmoid"},
    "GRU": {"recurrent_activation": "hard_sigmoid", "reset_after": False},
    **{f"{kind}Pooling{rank}D": {"pool_size": [2] * rank} for kind in ("Max", "Average") for rank in (1, 2, 3)},
    "BatchNormalization": {"axis": -1},
}
"""What TF.js takes where nothing is said, and Keras does not."""


@dataclass(frozen=True, slots=True)
class Reference:
    """An output of a call. `call` counts from 0, for models inside too."""

    layer: str
    call: int
    output: int
    shape: Shape


@dataclass(frozen=True, slots=True)
class ExportedLayer:
    class_name: str
    name: str
    config: dict[str, Any]
    """Empty for a model inside."""
    model: ExportedModel | None
    calls: list[list[Reference]]


@dataclass(frozen=True, slots=True)
class ExportedModel:
    class_name: str
    """Sequential or Functional."""
    name: str
    layers: list[ExportedLayer]
    inputs: list[Reference]
    outputs: list[Reference]


@dataclass
class _Numbers:
    """The calls of a model, numbered by layer."""

    places: dict[int, Reference] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)

    def add(self, call: Call) -> None:
        name = call.layer.name
        number = self.counted.get(name, 0)
        self.counted[name] = number + 1
        self.places[id(call)] = Reference(name, number, 0, call.outputs[0])

    def reference(self, call: Call, output: int) -> Reference:
        place = self.places[id(call)]
        return Reference(place.layer, place.call, output, call.outputs[output])


def exported_model(topology: str) -> ExportedModel:
    """Raises InvalidModel."""
    document = _snaked(document_of(topology, "the topology"))
    document = document.get("model_config", document)
    return _model(document["class_name"], document["config"], network_of_topology(topology))


def _model(class_name: str, config: Any, network: Network) -> ExportedModel:
    layers = config if isinstance(config, list) else config["layers"]
    described = {layer["config"].get("name"): layer for layer in layers}
    numbers = _Numbers()
    for call in network.calls:
        numbers.add(call)
    entries = [call.layer for call in network.inputs if call.layer not in network.layers]
    return ExportedModel(
        "Sequential" if class_name == "Sequential" else "Functional",
        network.name,
        [_layer(layer, described, network, numbers) for layer in (*entries, *network.layers)],
        [numbers.reference(call, 0) for call in network.inputs],
        [numbers.reference(call, output) for call, output in network.outputs],
    )


def _layer(layer: Any, described: Mapping[str, Any], network: Network, numbers: _Numbers) -> ExportedLayer:
    calls = [
        [numbers.reference(source, output) for source, output in call.sources]
        for call in network.calls
        if call.layer is layer and call.sources
    ]
    inputs = {id(call.layer): call for call in network.inputs}
    if id(layer) in inputs:
        given = described.get(layer.name, {}).get("config", {})
        config = {"batch_input_shape": list(inputs[id(layer)].outputs[0]), "dtype": given.get("dtype") or "float32"}
        return ExportedLayer("InputLayer", layer.name, {"name": layer.name, **config}, None, [])
    class_name, config = described[layer.name]["class_name"], described[layer.name]["config"]
    if isinstance(layer, Network):
        return ExportedLayer(class_name, layer.name, {}, _model(class_name, config, layer), calls)
    return ExportedLayer(class_name, layer.name, _config(class_name, config), None, calls)


def _config(class_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    known = set(ALWAYS) - {"batch_input_shape"} | set(KEPT[class_name])
    kept = {key: value for key, value in config.items() if key in known and value is not None}
    exported = {key: _value(key, value) for key, value in (dict(_WRITTEN.get(class_name, {})) | kept).items()}
    if class_name in ("Bidirectional", "TimeDistributed"):
        inner = config["layer"]
        exported["layer"] = {"class_name": inner["class_name"], "config": _config(inner["class_name"], inner["config"])}
        exported["trainable"] = True  # the layer inside alone decides, as in TF.js
    return exported


def _value(key: str, value: Any) -> Any:
    if key.endswith("_initializer"):
        return _initializer(value)
    if key == "axis" and isinstance(value, list) and len(value) == 1:
        return value[0]
    if key in _WORDS and isinstance(value, str):
        return _HUMP.sub("_", value).lower()
    if key in _WORDS and isinstance(value, dict):
        return _HUMP.sub("_", str(value.get("class_name"))).lower()
    return value


def _initializer(value: Any) -> Any:
    if not isinstance(value, dict):
        return _INITIALIZERS.get(value, value)
    config = dict(value.get("config") or {})
    if config.get("distribution") == "normal":
        config["distribution"] = "truncated_normal"
    class_name = value["class_name"]
    return {
        "class_name": _INITIALIZERS.get(class_name, class_name),
        "config": {key: _value(key, inside) for key, inside in config.items() if inside is not None},
    }


def _snaked(value: Any) -> Any:
    """Keys in snake_case, however deep."""
    if isinstance(value, dict):
        return {_HUMP.sub("_", key).lower(): _snaked(inside) for key, inside in value.items()}
    return [_snaked(inside) for inside in value] if isinstance(value, list) else value
