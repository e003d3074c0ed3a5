"""From a topology to its weights, in the order in which weights travel (protocol section 3.2).

All trainable weights in layer order, then all others in layer order.
"""

from __future__ import annotations

from learning.refusals import InvalidModel
from services.task_service.topology.document import Config, parse
from services.task_service.topology.graph import Network, Work, read_network
from services.task_service.topology.layer import Weight

MAX_STEPS = 200_000
"""Calls of layers, made or tried, that one topology may ask for: some seconds."""


def weights_of_topology(topology_json: str) -> tuple[Weight, ...]:
    """The weights of a TF.js LayersModel. Raises InvalidModel."""
    weights = network_of_topology(topology_json).weights()
    _check(weights)
    ordered = sorted(weights, key=lambda weight: not weight.trainable)  # a stable sort
    return tuple(ordered)


def network_of_topology(topology_json: str) -> Network:
    """The layers of a TF.js LayersModel, wired. Raises InvalidModel."""
    document = parse(topology_json, "the topology")
    if document.has("model_config"):
        document = document.inner("model_config")
    config = document.get("config")
    if isinstance(config, list):
        # Sequential models of old wrote their layers alone.
        config = {"layers": config}
    if not isinstance(config, dict):
        raise document.refusal("config must be an object")
    return read_network(document.text("class_name"), Config(config, "the model"), Work(MAX_STEPS))


def _check(weights: tuple[Weight, ...]) -> None:
    if not weights:
        raise InvalidModel(problem="it has no weights, so there is nothing to learn")
    names: set[str] = set()
    for weight in weights:
        if weight.name in names:
            raise InvalidModel(problem=f"two tensors are called {weight.name}; give every layer its own name")
        names.add(weight.name)
