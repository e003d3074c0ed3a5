"""The JSON of a Keras model, 2 or 3, as the topology of a TF.js LayersModel. Nothing in it is executed.

Program code has no place in it: Lambda layers and custom objects are refused by name, and so is
whatever TF.js has no layer for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from learning.refusals import InvalidModel
from services.task_service.conversion.keras_calls import Calls
from services.task_service.conversion.keras_layers import KEPT, rewritten

MODELS = ("Sequential", "Functional", "Model")
_WRAPPERS = ("Bidirectional", "TimeDistributed")
_MODULES = ("keras", "tf_keras", "tensorflow.keras", "tensorflow.python.keras")
_OPERATIONS = (
    "TFOpLambda",
    "SlicingOpLambda",
    "TensorFlowOpLayer",
    "ClassMethod",
    "InstanceMethod",
    "InstanceProperty",
)


@dataclass
class Rewriting:
    """One model on its way, with what was noticed."""

    keras_3: bool
    notes: list[str] = field(default_factory=list)
    masks: bool = False
    """Whether a layer masks steps."""
    zeroes: bool = False
    """Whether a layer wants its output to be zero where steps are masked."""

    def note(self, sentence: str) -> None:
        if sentence not in self.notes and len(self.notes) < 100:
            self.notes.append(sentence)


def topology_of(document: Mapping[str, Any], rewriting: Rewriting) -> dict[str, Any]:
    """Raises InvalidModel."""
    class_name, config = _class_and_config(document, "the model")
    if class_name not in MODELS or "layers" not in config:
        raise InvalidModel(
            problem=f"it is a subclassed model ({class_name[:100]}), whose layers only its program code knows; build it"
            " with keras.Sequential or keras.Model(inputs, outputs)"
        )
    _check_origin(document, class_name, "the model")
    rewritten_config = _model(class_name, config, rewriting, frozen=False)
    if rewriting.masks and rewriting.zeroes:
        raise InvalidModel(problem="it masks steps in a layer with zero_output_for_mask, which TF.js does not know")
    return {
        "class_name": class_name,
        "config": rewritten_config,
        "keras_version": "tfjs-layers 4.22.0",
        "backend": "tensor_flow.js",
    }


def _class_and_config(document: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    match document:
        case {"class_name": str(class_name), "config": dict(config)}:
            return class_name, config
        case {"class_name": "Sequential", "config": list(layers)}:
            return "Sequential", {"name": "sequential", "layers": layers}
    raise InvalidModel(problem=f"{where} must be an object with class_name and config")


def _check_origin(document: Mapping[str, Any], class_name: str, where: str) -> None:
    """Whether Keras itself has this class."""
    module, registered = document.get("module"), document.get("registered_name")
    if class_name == "Lambda":
        raise InvalidModel(
            problem=f"{where}: Lambda layers carry program code and are never taken; use layers of TF.js"
        )
    outside = isinstance(module, str) and not any(module == each or module.startswith(f"{each}.") for each in _MODULES)
    if outside or ">" in class_name or (isinstance(registered, str) and ">" in registered):
        name = registered if isinstance(registered, str) else class_name
        raise InvalidModel(
            problem=f"{where}: {name[:100]} is a custom object, which is program code; use layers of TF.js"
        )
    operation = isinstance(module, str) and ".ops" in module
    if operation or class_name in _OPERATIONS:
        raise InvalidModel(
            problem=f"{where}: {class_name[:100]} is an operation outside of a layer; use layers such as Add or Reshape"
        )


def _model(class_name: str, config: Mapping[str, Any], rewriting: Rewriting, *, frozen: bool) -> dict[str, Any]:
    """`frozen` is inherited: a model that is not trained trains none of its layers."""
    frozen = frozen or config.get("trainable") is False
    described = config.get("layers")
    if not isinstance(described, list):
        raise InvalidModel(problem="layers must be a list")
    name = config.get("name", class_name.lower())
    layers = [_layer(each, rewriting, frozen=frozen) for each in described]
    if class_name == "Sequential":
        return {"name": name, "layers": layers}
    inside = [layer["config"]["name"] for layer in layers if layer["class_name"] in MODELS]
    chains = [layer["config"]["name"] for layer in layers if layer["class_name"] == "Sequential"]
    calls = Calls(inside=inside, chains=chains, keras_3=rewriting.keras_3, note=rewriting.note)
    for layer, original in zip(layers, described, strict=True):
        layer_name, where = layer["config"]["name"], _where(layer["config"], layer["class_name"])
        nodes = calls.nodes(original.get("inbound_nodes", []), layer["class_name"], where)
        layer |= {"name": layer_name, "inbound_nodes": nodes}
    ends = {key: calls.ends(config.get(key), key) for key in ("input_layers", "output_layers")}
    return {"name": name, "layers": layers, **ends}


def _where(config: Mapping[str, Any], class_name: str) -> str:
    return f"layer {str(config.get('name'))[:100]} ({class_name[:100]})"


def _layer(described: Any, rewriting: Rewriting, *, frozen: bool) -> dict[str, Any]:
    class_name, config = _class_and_config(described, "a layer")
    where = _where(config, class_name)
    _check_origin(described, class_name, where)
    if not isinstance(config.get("name"), str):
        raise InvalidModel(problem=f"{where}: it has no name")
    if class_name in MODELS:
        return {"class_name": class_name, "config": _model(class_name, config, rewriting, frozen=frozen)}
    if class_name not in KEPT:
        raise InvalidModel(
            problem=f"{where}: there is no layer class {class_name[:100]} here, but these: {', '.join(sorted(KEPT))}"
        )
    new = rewritten(class_name, config, where, keras_3=rewriting.keras_3)
    if frozen:
        new["trainable"] = False
    _notice(class_name, config, rewriting)
    if class_name in _WRAPPERS:
        new["layer"] = _wrapped(class_name, config, where, rewriting, frozen=frozen)
    return {"class_name": class_name, "config": new}


def _notice(class_name: str, config: Mapping[str, Any], rewriting: Rewriting) -> None:
    rewriting.masks |= class_name == "Masking" or bool(config.get("mask_zero"))
    rewriting.zeroes |= bool(config.get("zero_output_for_mask"))
    if str(config.get("dtype")).find("mixed_") >= 0:
        rewriting.note("Mixed precision becomes float32, which is how TF.js computes.")


def _wrapped(
    class_name: str, config: Mapping[str, Any], where: str, rewriting: Rewriting, *, frozen: bool
) -> dict[str, Any]:
    inner = _layer(config.get("layer"), rewriting, frozen=frozen or config.get("trainable") is False)
    if inner["class_name"] in MODELS or inner["class_name"] in _WRAPPERS:
        raise InvalidModel(problem=f"{where}: TF.js wraps single layers only, and no model")
    if class_name == "Bidirectional":
        if config.get("merge_mode", "concat") is None:
            raise InvalidModel(problem=f"{where}: merge_mode None gives two outputs, which TF.js does not know")
        if config.get("backward_layer") is not None:
            backward = _layer(config["backward_layer"], rewriting, frozen=frozen)
            if _alike(backward) != _alike(inner):
                raise InvalidModel(problem=f"{where}: its two directions differ, which TF.js does not know")
        # TF.js puts the direction before the name, as Keras 3 has done already.
        inner["config"]["name"] = inner["config"]["name"].removeprefix("forward_")
    return inner


def _alike(layer: Mapping[str, Any]) -> dict[str, Any]:
    ignored = ("name", "go_backwards", "trainable")
    return {key: value for key, value in layer["config"].items() if key not in ignored} | {"class": layer["class_name"]}
