"""`.h5`, as Keras 2 and Keras 3 write it: the model's JSON is an attribute, the weights of each layer a group.

A layer's tensors are found by their order, since their names depend on the version of Keras; the ends of
the names must fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from learning.refusals import InvalidModel
from services.task_service.conversion import hdf5
from services.task_service.conversion.documents import document_of
from services.task_service.conversion.keras_config import Rewriting, topology_of
from services.task_service.conversion.layer_tree import weights_of_top_layers
from services.task_service.conversion.tensors import Found, Tensor
from services.task_service.conversion.training_config import training_config_of
from services.task_service.topology.layer import Weight

_WEIGHTS = "model_weights"
_ALSO_CALLED = {"depthwise_kernel": "kernel"}


@contextmanager
def read(path: Path) -> Iterator[Found]:
    """Raises InvalidModel."""
    with hdf5.reading(path) as file:
        described = file.text("/", "model_config")
        if described is None:
            raise InvalidModel(
                problem="the HDF5 file holds weights and no model; save the whole of it with model.save(...)"
            )
        version = file.text("/", "keras_version") or "2"
        rewriting = Rewriting(keras_3=version.startswith("3."))
        topology = msgspec.json.encode(topology_of(document_of(described, "model_config"), rewriting)).decode()
        compiled = file.text("/", "training_config")
        training = training_config_of(document_of(compiled, "training_config") if compiled else None, rewriting.note)
        yield Found(topology, f"Keras {version[:1]} (.h5)", _tensors(file, topology), training, rewriting.notes)


def _tensors(file: hdf5.File, topology: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for layer, weights in weights_of_top_layers(topology).items():
        if weights:
            found |= _of_layer(file, layer, weights)
    return found


def _of_layer(file: hdf5.File, layer: str, weights: Sequence[Weight]) -> dict[str, Tensor]:
    group = f"{_WEIGHTS}/{layer}"
    names = file.names(group, "weight_names")
    if len(names) != len(weights):
        raise InvalidModel(problem=f"layer {layer} has {len(weights)} tensors, the file has {len(names)}")
    found: dict[str, Tensor] = {}
    for weight, name in zip(weights, names, strict=True):
        ours, theirs = weight.name.rsplit("/", 1)[-1], name.rsplit("/", 1)[-1].split(":")[0]
        if theirs not in (ours, _ALSO_CALLED.get(ours)):
            raise InvalidModel(problem=f"layer {layer} has {name[:100]} where {ours} belongs")
        tensor = file.tensor(f"{group}/{name}")
        if tensor is not None:
            found[weight.name] = tensor
    return found
