"""A model as Keras 3 writes it: the JSON, and `.keras` around it."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from learning.refusals import InvalidModel
from services.task_service.conversion import hdf5
from services.task_service.conversion.keras_export import ExportedLayer, ExportedModel, Reference, exported_model
from services.task_service.conversion.layer_tree import parts_of, places, weights_of_layers
from services.task_service.conversion.tensors import CanonicalWeights

_VERSION = "3.0.0"
_WHEN = (1980, 1, 1, 0, 0, 0)
_WEIGHTS = "model.weights.h5"
_FUNCTIONAL = {"module": "keras.src.models.functional", "class_name": "Functional", "registered_name": "Functional"}
_RECURRENT = ("SimpleRNN", "GRU", "LSTM")


def write_keras(path: Path, topology: str, weights: CanonicalWeights, labels: Mapping[str, str]) -> None:
    """Raises InvalidModel."""
    document = _of_model(exported_model(topology))
    _write_weights(Path(_WEIGHTS), document, weights_of_layers(topology), weights)
    metadata = {"keras_version": _VERSION, "date_saved": "1980-01-01@00:00:00"}
    with zipfile.ZipFile(path, "w") as archive:
        _add(archive, "metadata.json", msgspec.json.encode(metadata | {f"disco_{key}": labels[key] for key in labels}))
        _add(archive, "config.json", msgspec.json.encode(document))
        info = zipfile.ZipInfo(_WEIGHTS, _WHEN)
        with archive.open(info, "w", force_zip64=True) as member, Path(_WEIGHTS).open("rb") as file:
            shutil.copyfileobj(file, member)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, _WHEN), data)


def _write_weights(
    path: Path, document: Mapping[str, Any], of_layers: Mapping[str, Any], weights: CanonicalWeights
) -> None:
    with hdf5.h5py().File(path, "w") as file:
        for described, place in places(document["config"]["layers"]):
            tensors = of_layers.get(described["config"]["name"], ())
            for part in parts_of(described, tensors):
                group = file.create_group("/".join(filter(None, (place, part.inside, "vars"))))
                for number, weight in enumerate(part.weights):
                    group.create_dataset(str(number), data=weights.read(weight.name), track_times=False)
        file.create_group("vars")


def _of_model(model: ExportedModel) -> dict[str, Any]:
    layers = [_of_layer(layer) for layer in model.layers]
    if model.class_name == "Sequential":
        config = {"name": model.name, "trainable": True, "layers": layers}
        return {"module": "keras", "class_name": "Sequential", "registered_name": None, "config": config}
    for written, layer in zip(layers, model.layers, strict=True):
        written |= {"name": layer.name, "inbound_nodes": [_node(layer, call) for call in layer.calls]}
    functional = {layer.name for layer in model.layers if layer.model and layer.model.class_name == "Functional"}

    def end(of: Reference) -> list[Any]:
        # At the ends of a model, and only there, a Functional model inside counts the call of itself.
        return [of.layer, of.call + (of.layer in functional), of.output]

    def ends(of: list[Reference]) -> list[Any]:
        # A list of one would make the output of the model a list.
        return end(of[0]) if len(of) == 1 else [end(each) for each in of]

    wired = {"input_layers": ends(model.inputs), "output_layers": ends(model.outputs)}
    return _FUNCTIONAL | {"config": {"name": model.name, "trainable": True, "layers": layers, **wired}}


def _of_layer(layer: ExportedLayer) -> dict[str, Any]:
    if "/" in layer.name:
        raise InvalidModel(problem=f"layer {layer.name[:100]}: Keras 3 takes no '/' in a name")
    if layer.model is not None:
        return _of_model(layer.model)
    return _described(layer.class_name, layer.config, layer.name)


def _described(class_name: str, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    if class_name == "ThresholdedReLU":
        raise InvalidModel(problem=f"layer {name[:100]}: Keras 3 has no ThresholdedReLU; write it as h5")
    if "hard_sigmoid" in (config.get("activation"), config.get("recurrent_activation")):
        raise InvalidModel(
            problem=f"layer {name[:100]}: the hard_sigmoid of Keras 3 is not that of TF.js; write it as h5, for Keras 2"
        )
    renamed = {"batch_input_shape": "batch_shape"} | ({"alpha": "negative_slope"} if class_name == "LeakyReLU" else {})
    new = {renamed.get(key, key): value for key, value in config.items() if key != "input_length"}
    if "layer" in new:
        inner = new["layer"]
        new["layer"] = _described(inner["class_name"], inner["config"], name)
    return {"module": "keras.layers", "class_name": class_name, "registered_name": None, "config": new}


def _node(layer: ExportedLayer, call: list[Reference]) -> dict[str, Any]:
    tensors = [_tensor(each) for each in call]
    if layer.class_name in _RECURRENT and len(tensors) > 1:
        return {"args": tensors[:1], "kwargs": {"initial_state": tensors[1:]}}
    return {"args": [tensors if len(tensors) > 1 else tensors[0]], "kwargs": {}}


def _tensor(of: Reference) -> dict[str, Any]:
    history = [of.layer, of.call, of.output]
    return {
        "class_name": "__keras_tensor__",
        "config": {"shape": list(of.shape), "dtype": "float32", "keras_history": history},
    }
