"""A model as Keras 2 writes it: the JSON, and `.h5` around it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from learning.refusals import InvalidModel
from services.task_service.conversion import hdf5
from services.task_service.conversion.keras_export import ExportedLayer, ExportedModel, Reference, exported_model
from services.task_service.conversion.layer_tree import weights_of_top_layers
from services.task_service.conversion.tensors import CanonicalWeights

_VERSION = "2.15.0"
_ROOM = 32_000
"""Bytes of one attribute; HDF5 takes twice as many."""


def write_h5(path: Path, topology: str, weights: CanonicalWeights, labels: Mapping[str, str]) -> None:
    """Raises InvalidModel."""
    model = exported_model(topology)
    document = {"class_name": model.class_name, "config": _model(model)}
    top = weights_of_top_layers(topology)
    with hdf5.h5py().File(path, "w") as file:
        file.attrs["model_config"] = msgspec.json.encode(document)
        group = file.create_group("model_weights")
        for holder in (file, group):
            holder.attrs["keras_version"], holder.attrs["backend"] = _VERSION.encode(), b"tensorflow"
        for name, value in labels.items():
            file.attrs[f"disco_{name}"] = value.encode()
        _names(group, "layer_names", [layer.name for layer in model.layers])
        for layer in model.layers:
            inside = group.create_group(layer.name)
            tensors = top.get(layer.name, [])
            _names(inside, "weight_names", [f"{weight.name}:0" for weight in tensors])
            for weight in tensors:
                inside.create_dataset(f"{weight.name}:0", data=weights.read(weight.name), track_times=False)


def _names(group: Any, key: str, names: list[str]) -> None:
    """A list of names in pieces that fit into the header of an object, as Keras cuts them."""
    if any("/" in name for name in names) and key == "layer_names":
        raise InvalidModel(problem="a layer has a '/' in its name, which Keras does not take")
    pieces: list[list[bytes]] = [[]]
    room = _ROOM
    for name in (name.encode() for name in names):
        if len(name) > room:
            pieces.append([])
            room = _ROOM
        pieces[-1].append(name)
        room -= len(max(pieces[-1], key=len))
    if len(pieces) == 1:
        group.attrs[key] = pieces[0]
        return
    for number, piece in enumerate(pieces):
        group.attrs[f"{key}{number}"] = piece


def _model(model: ExportedModel) -> dict[str, Any]:
    if model.class_name == "Sequential":
        return {"name": model.name, "layers": [_described(layer) for layer in model.layers]}
    inside = {layer.name for layer in model.layers if layer.model is not None}

    def reference(of: Reference) -> list[Any]:
        # Keras 2 counts the call that a model inside makes of itself.
        return [of.layer, of.call + (of.layer in inside), of.output]

    layers = [
        _described(layer)
        | {"name": layer.name, "inbound_nodes": [[[*reference(each), {}] for each in call] for call in layer.calls]}
        for layer in model.layers
    ]
    ends = {"input_layers": model.inputs, "output_layers": model.outputs}
    return {"name": model.name, "layers": layers} | {
        key: [reference(each) for each in references] for key, references in ends.items()
    }


def _described(layer: ExportedLayer) -> dict[str, Any]:
    if layer.model is not None:
        return {"class_name": layer.model.class_name, "config": _model(layer.model)}
    config = dict(layer.config)
    if "layer" in config:
        config["layer"] = {"module": "keras.layers", "registered_name": None, **config["layer"]}
    return {"class_name": layer.class_name, "config": config}
