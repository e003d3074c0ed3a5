"""Every layer class that is understood, and the two wrappers, which apply the rule of another layer.

What TF.js cannot load is refused here by name, before any participant tries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from services.task_service.topology import convolutions, merging, plain, recurrent
from services.task_service.topology.document import Config
from services.task_service.topology.layer import Built, Rule, Shape, check_shape, only_input

_PLAIN: Mapping[str, Rule] = {**plain.RULES, **convolutions.RULES, **recurrent.RULES, **merging.RULES}


def build(class_name: str, config: Config, inputs: tuple[Shape, ...]) -> Built:
    """The layer on its inputs; its weights are non-trainable where its configuration says so. Raises InvalidModel."""
    wrapper = _WRAPPERS.get(class_name)
    built = wrapper(config, inputs) if wrapper else _build_plain(class_name, config, inputs)
    for shape in built.outputs:
        check_shape(config, shape)
    return built


def _build_plain(class_name: str, config: Config, inputs: tuple[Shape, ...]) -> Built:
    rule = _PLAIN.get(class_name)
    if rule is None:
        raise config.refusal(_unknown(class_name))
    built = rule(config, inputs)
    if built.weights and config.text("dtype", "float32") != "float32":
        raise config.refusal("its weights must be float32")
    if config.flag("trainable", True):
        return built
    return replace(built, weights=tuple(replace(weight, trainable=False) for weight in built.weights))


def _unknown(class_name: str) -> str:
    if class_name == "Lambda":
        return "Lambda layers carry program code and are never taken; use layers that TF.js has"
    return f"the layer class {class_name[:100]} is not supported; use layers that TF.js has"


# The wrapped layer alone decides what is trainable, as in TF.js; the wrapper's own setting says nothing.


def _wrapped(config: Config) -> tuple[str, Config]:
    layer = config.inner("layer")
    class_name = layer.text("class_name")
    return class_name, layer.inner("config", f"{config.where} around {class_name[:100]}")


def _time_distributed(config: Config, inputs: tuple[Shape, ...]) -> Built:
    shape = only_input(config, inputs)
    if len(shape) < 3:
        raise config.refusal("takes inputs of 3 dimensions or more with the batch")
    class_name, inner = _wrapped(config)
    built = _build_plain(class_name, inner, ((shape[0], *shape[2:]),))
    return replace(built, outputs=tuple((output[0], shape[1], *output[1:]) for output in built.outputs))


def _bidirectional(config: Config, inputs: tuple[Shape, ...]) -> Built:
    class_name, inner = _wrapped(config)
    if class_name not in recurrent.RULES:
        raise config.refusal("goes around SimpleRNN, GRU and LSTM only")
    built = _build_plain(class_name, inner, inputs[:1])
    name = inner.text("name")
    weights = tuple(
        replace(weight, name=f"{direction}_{name}/{weight.name}")
        for direction in ("forward", "backward")
        for weight in built.weights
    )
    output, states = built.outputs[0], built.outputs[1:] * 2
    merged = config.text("merge_mode", "concat")
    if merged not in ("concat", "sum", "mul", "ave"):
        raise config.refusal("merge_mode must be one of concat, sum, mul, ave")
    last = output[-1]
    assert last is not None, "a recurrent layer has a known number of units"
    return Built(((*output[:-1], last * (2 if merged == "concat" else 1)), *states), weights)


_WRAPPERS: Mapping[str, Rule] = {"TimeDistributed": _time_distributed, "Bidirectional": _bidirectional}
