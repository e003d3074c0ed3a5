"""The model of a task that is being created: read, checked, and the order in which its weights travel.

Knows no store and no gRPC, and holds no weights (`new_weights`). Everything here may take seconds of
computing, so callers run it in a thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from blobstore.records import Model, WeightSpec
from learning.limits import MAX_TENSORS
from learning.refusals import InvalidModel, InvalidTask, InvalidWeights, TooLarge
from learning.task import Task
from services.task_service.gpt import weights_of_gpt
from services.task_service.initializers import blocks_of
from services.task_service.topology.document import MAX_JSON_BYTES, parse
from services.task_service.topology.layer import Weight
from services.task_service.topology.weights import weights_of_topology

BYTES_PER_WEIGHT = 4
MAX_DESCRIPTION_BYTES = MAX_JSON_BYTES
"""Of a model without its weights: it must fit one message whenever it is sent."""

_READERS: Mapping[str, Callable[[str], tuple[Weight, ...]]] = {"tfjs": weights_of_topology, "gpt": weights_of_gpt}

_OPTIMIZERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "sgd": ("SGD", {"learning_rate": 0.01}),
    "momentum": ("Momentum", {"learning_rate": 0.01, "momentum": 0.9, "use_nesterov": False}),
    "rmsprop": (
        "RMSProp",
        {"learning_rate": 0.001, "decay": 0.9, "momentum": 0.0, "epsilon": 1e-7, "centered": False},
    ),
    "adam": ("Adam", {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}),
    "adamax": ("Adamax", {"learning_rate": 0.002, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "decay": 0.0}),
    "adagrad": ("Adagrad", {"learning_rate": 0.01}),
    "adadelta": ("Adadelta", {"learning_rate": 0.001, "rho": 0.95, "epsilon": 1e-7}),
}
"""TF.js' class and defaults of every optimizer that a client may name."""


@dataclass(frozen=True, slots=True)
class NewModel:
    """A model, before its weights have come."""

    model: Model
    """As it is kept."""
    tensors: tuple[Weight, ...]
    """In the order in which their weights travel."""
    places: tuple[int, ...]
    """Of each tensor its place among those that are sent."""

    @property
    def weights_size(self) -> int:
        """Bytes of all weights."""
        return self.model.size * BYTES_PER_WEIGHT


def planned(task: Task, offered: Model, *, weights_size: int | None, max_bytes: int) -> NewModel:
    """The model as it is kept, before any of the `weights_size` bytes of its weights is read; None: none are sent.

    Raises InvalidModel, InvalidTask, InvalidWeights, TooLarge.
    """
    if task.training.tensor_backend != offered.kind:
        raise InvalidTask(field="training.tensor_backend", problem=f'must be "{offered.kind}", as the model is')
    wanted = _READERS[offered.kind](offered.topology_json)
    if len(wanted) > MAX_TENSORS:
        raise InvalidModel(problem=f"it has more than {MAX_TENSORS} tensors")
    if sum(math.prod(weight.shape) for weight in wanted) * BYTES_PER_WEIGHT > max_bytes:
        raise TooLarge(limit_bytes=max_bytes)
    places = _sources(wanted, offered) if offered.weight_specs else range(len(wanted))
    model = Model(
        kind=offered.kind,
        topology_json=offered.topology_json,
        weight_specs=tuple(WeightSpec(weight.name, weight.shape) for weight in wanted),
        training_config_json=_training_config(task, offered),
    )
    if _described_in(model) > MAX_DESCRIPTION_BYTES:
        raise TooLarge(limit_bytes=MAX_DESCRIPTION_BYTES)
    new = NewModel(model, wanted, tuple(places))
    if weights_size is not None:
        if not offered.weight_specs:
            raise InvalidModel(problem="weights were sent without weight specs, which say what they are")
        if weights_size != new.weights_size:
            problem = f"{weights_size} bytes were announced, {new.weights_size} belong to the model"
            raise InvalidWeights(problem=problem)
    return new


def initial_weights(task: Task, new: NewModel) -> Iterator[NDArray[np.float32]]:
    """Weights for a model that came without any, block by block. Raises InvalidModel.

    The seed is the task's id and the tensor's name: every replica makes the same bytes.
    """
    for weight in new.tensors:
        yield from blocks_of(weight.initializer, weight.shape, seed=f"{task.task_id}\n{weight.name}")


def _described_in(model: Model) -> int:
    """Bytes of all but the weights, about as a message has them."""
    specs = sum(len(spec.name) + 16 + 5 * len(spec.shape) for spec in model.weight_specs)
    return len(model.topology_json.encode()) + len(model.training_config_json.encode()) + specs


def _sources(wanted: Sequence[Weight], offered: Model) -> list[int]:
    """For each tensor its place among the offered ones. A GPT's tensors have no names that mean anything."""
    specs = offered.weight_specs
    if len(specs) != len(wanted):
        raise InvalidModel(problem=f"it has {len(wanted)} tensors, and {len(specs)} weight specs were sent")
    places = list(range(len(specs))) if offered.kind == "gpt" else _places_by_name(wanted, specs)
    for weight, place in zip(wanted, places, strict=True):
        if specs[place].shape != weight.shape:
            problem = f"tensor {weight.name} has the shape {list(weight.shape)}, not {list(specs[place].shape)}"
            raise InvalidModel(problem=problem)
    return places


def _places_by_name(wanted: Sequence[Weight], specs: Sequence[WeightSpec]) -> list[int]:
    """TF.js finds weights by name, in any order. Keras puts the name of a cell before the last part; that is let be."""
    places: dict[str, int] = {}
    names = {weight.name for weight in wanted}
    for place, spec in enumerate(specs):
        parts = spec.name.split("/")
        name = spec.name if spec.name in names else "/".join([*parts[:-2], parts[-1]])
        if name not in names or name in places:
            raise InvalidModel(problem=f"the topology has no tensor {spec.name[:256]}, or it was sent twice")
        places[name] = place
    return [places[weight.name] for weight in wanted]


def _training_config(task: Task, offered: Model) -> str:
    """What the model is compiled with. Later clients refuse a TF.js model without it, so it is written where absent."""
    if offered.training_config_json:
        config = parse(offered.training_config_json, "the training configuration")
        config.inner("optimizer_config").text("class_name")
        if not config.has("loss"):
            raise config.refusal("loss is missing")
        return offered.training_config_json
    return _compiled_as_the_task_says(task) if offered.kind == "tfjs" else ""


def _compiled_as_the_task_says(task: Task) -> str:
    training = task.training
    if training.optimizer.lower() not in _OPTIMIZERS:
        raise InvalidTask(field="training.optimizer", problem=f"must be one of {', '.join(_OPTIMIZERS)}")
    class_name, defaults = _OPTIMIZERS[training.optimizer.lower()]
    config = dict(defaults)
    if training.learning_rate is not None:
        config["learning_rate"] = training.learning_rate
    document = {
        "loss": training.loss,
        "metrics": list(training.metrics),
        "optimizer_config": {"class_name": class_name, "config": config},
    }
    return msgspec.json.encode(document).decode()
