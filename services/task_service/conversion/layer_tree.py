"""Where the containers of Keras keep the weights of each layer: by its place among the layers, or by its name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.task_service.conversion.keras_config import MODELS
from services.task_service.topology.graph import Network
from services.task_service.topology.layer import Weight
from services.task_service.topology.weights import network_of_topology

_RECURRENT = ("SimpleRNN", "GRU", "LSTM")


@dataclass(frozen=True, slots=True)
class Part:
    """Tensors that lie together: those of a layer, or of one of the layers that it wraps."""

    inside: str
    """From the layer to them: "", "cell", "forward_layer/cell", …"""
    weights: tuple[Weight, ...]


def weights_of_layers(topology: str) -> dict[str, tuple[Weight, ...]]:
    """The weights of every layer, however deep, by its name; in the order in which its class makes them."""
    found: dict[str, tuple[Weight, ...]] = {}
    waiting = [network_of_topology(topology)]
    while waiting:
        for layer in waiting.pop().layers:
            if isinstance(layer, Network):
                waiting.append(layer)
            else:
                found[layer.name] = layer.weights()
    return found


def weights_of_top_layers(topology: str) -> dict[str, list[Weight]]:
    """As `weights_of_layers`, for the layers of the model itself: a model inside is one of them; trained ones first."""
    network = network_of_topology(topology)
    return {layer.name: sorted(layer.weights(), key=lambda weight: not weight.trainable) for layer in network.layers}


def parts_of(described: Mapping[str, Any], weights: Sequence[Weight]) -> list[Part]:
    """The tensors of one layer as Keras 2 and 3 divide them."""
    class_name = described["class_name"]
    if class_name == "Bidirectional":
        half = len(weights) // 2
        return [Part("forward_layer/cell", tuple(weights[:half])), Part("backward_layer/cell", tuple(weights[half:]))]
    if class_name == "TimeDistributed":
        (inner,) = parts_of(described["config"]["layer"], weights)
        return [Part("/".join(filter(None, ("layer", inner.inside))), inner.weights)]
    return [Part("cell" if class_name in _RECURRENT else "", tuple(weights))]


def places(layers: Sequence[Mapping[str, Any]], above: str = "layers") -> Iterator[tuple[Mapping[str, Any], str]]:
    """Every layer that is no model, with its folder in the weights of a `.keras` archive: named after its class."""
    counted: Counter[str] = Counter()
    for described in layers:
        snake = _snake(described["class_name"])
        folder = f"{above}/{snake}_{counted[snake]}" if counted[snake] else f"{above}/{snake}"
        counted[snake] += 1
        if described["class_name"] in MODELS:
            yield from places(described["config"]["layers"], f"{folder}/layers")
        else:
            yield described, folder


def _snake(class_name: str) -> str:
    words = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", "Functional" if class_name == "Model" else class_name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", words).lower()
