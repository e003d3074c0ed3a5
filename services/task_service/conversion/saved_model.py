"""SavedModel, where Keras 2 wrote it: the model's JSON is beside the graph, the weights are in a tensor bundle.

The graph is never read: it is a program. Which variable belongs to which layer stands in the
bundle, as a graph of objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from learning.refusals import InvalidModel, TooLarge
from services.task_service.conversion.documents import document_of
from services.task_service.conversion.keras_config import MODELS, Rewriting, topology_of
from services.task_service.conversion.layer_tree import parts_of, weights_of_layers
from services.task_service.conversion.limits import ConversionLimits
from services.task_service.conversion.messages import damaged, fields, inner, number, text
from services.task_service.conversion.tensor_bundle import TensorBundle
from services.task_service.conversion.tensors import Found, Tensor
from services.task_service.conversion.training_config import training_config_of
from services.task_service.topology.layer import Weight

GRAPH = (
    "it is a GraphModel: the operations of a finished model, without the layers that training needs. Load it where it"
    " was made, and save the Keras model as .keras or .h5"
)
_MAX_METADATA_BYTES = 32 * 1024 * 1024
_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"


@dataclass
class _Object:
    children: dict[str, int] = field(default_factory=dict)
    key: str = ""
    """Under which its value is in the bundle, where it is a variable."""


@contextmanager
def read(folder: Path, limits: ConversionLimits) -> Iterator[Found]:
    """Raises InvalidModel, TooLarge."""
    metadata = folder / "keras_metadata.pb"
    if not metadata.is_file():
        raise InvalidModel(problem=GRAPH)
    if metadata.stat().st_size > _MAX_METADATA_BYTES:
        raise TooLarge(limit_bytes=_MAX_METADATA_BYTES)
    root = _plain(document_of(_root(metadata.read_bytes()), "the metadata of the SavedModel"))
    rewriting = Rewriting(keras_3=False)
    topology = topology_of(root, rewriting)
    training = training_config_of(root.get("training_config"), rewriting.note)
    encoded = msgspec.json.encode(topology).decode()
    bundle = TensorBundle(folder / "variables" / "variables")
    objects = _objects(bundle.octets(_OBJECTS))
    tensors = dict(_of_model(topology["config"], 0, objects, bundle, weights_of_layers(encoded)))
    yield Found(encoded, "SavedModel of Keras 2", tensors, training, rewriting.notes)


def _root(data: bytes) -> str:
    for _, node in fields(data):
        found = dict(fields(inner(node)))
        if found.get(2, 0) == 0:
            return text(found.get(5, b""))
    raise InvalidModel(problem=GRAPH)


def _plain(value: Any) -> Any:
    """Tuples are objects with a name of their own there."""
    if isinstance(value, dict):
        if value.get("class_name") == "__tuple__":
            return _plain(value.get("items"))
        return {key: _plain(inside) for key, inside in value.items()}
    return [_plain(inside) for inside in value] if isinstance(value, list) else value


def _objects(data: bytes) -> list[_Object]:
    objects = []
    for number_, node in fields(data):
        if number_ != 1:
            continue
        found = _Object()
        for kind, value in fields(inner(node)):
            if kind == 1:
                child = dict(fields(inner(value)))
                found.children[text(child.get(2, b""))] = number(child.get(1, 0))
            elif kind == 2:
                found.key = text(dict(fields(inner(value))).get(3, b""))
        objects.append(found)
    return objects


def _of_model(
    config: Mapping[str, Any],
    node: int,
    objects: Sequence[_Object],
    bundle: TensorBundle,
    weights: Mapping[str, tuple[Weight, ...]],
) -> Iterator[tuple[str, Tensor]]:
    # A Sequential model does not count its input.
    sequential = "input_layers" not in config
    layers = [each for each in config["layers"] if not (sequential and each["class_name"] == "InputLayer")]
    for place, described in enumerate(layers):
        child = _child(objects, node, f"layer-{place}")
        if described["class_name"] in MODELS:
            yield from _of_model(described["config"], child, objects, bundle, weights)
            continue
        for part in parts_of(described, weights.get(described["config"]["name"], ())):
            holder = child
            for step in filter(None, part.inside.split("/")):
                holder = _child(objects, holder, step)
            for weight in part.weights:
                variable = _child(objects, holder, weight.name.rsplit("/", 1)[-1])
                tensor = bundle.tensor(objects[variable].key)
                if tensor is not None:
                    yield weight.name, tensor


def _child(objects: Sequence[_Object], node: int, name: str) -> int:
    child = objects[node].children.get(name) if node < len(objects) else None
    if child is None or child >= len(objects):
        raise damaged()
    return child
