"""`.keras`, Keras 2 and Keras 3: a zip archive of the model's JSON and of its weights as HDF5."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from learning.refusals import InvalidModel
from services.task_service.conversion import hdf5
from services.task_service.conversion.archives import Archive
from services.task_service.conversion.documents import read_document
from services.task_service.conversion.keras_config import Rewriting, topology_of
from services.task_service.conversion.layer_tree import parts_of, places, weights_of_layers
from services.task_service.conversion.tensors import Found, Tensor
from services.task_service.conversion.training_config import training_config_of

MEMBERS = ("config.json", "metadata.json", "model.weights.h5")


@contextmanager
def read(archive: Archive, folder: Path) -> Iterator[Found]:
    """Raises InvalidModel."""
    missing = [name for name in MEMBERS if name not in archive.names]
    if missing:
        raise InvalidModel(problem=f"the .keras archive has no {', '.join(missing)}")
    config, metadata = (read_document(archive.unpack(name, folder / name), name) for name in MEMBERS[:2])
    version = str(metadata.get("keras_version"))
    rewriting = Rewriting(keras_3=version.startswith("3."))
    topology = topology_of(config, rewriting)
    training = training_config_of(config.get("compile_config"), rewriting.note)
    text = msgspec.json.encode(topology).decode()
    with hdf5.reading(archive.unpack(MEMBERS[2], folder / MEMBERS[2])) as file:
        tensors = _tensors(file, topology, text)
        yield Found(text, f"Keras {version[:1]} (.keras)", tensors, training, rewriting.notes)


def _tensors(file: hdf5.File, topology: Mapping[str, Any], text: str) -> dict[str, Tensor]:
    weights = weights_of_layers(text)
    found: dict[str, Tensor] = {}
    for described, place in places(topology["config"]["layers"]):
        name = described["config"]["name"]
        for part in parts_of(described, weights.get(name, ())):
            for number, weight in enumerate(part.weights):
                path = "/".join(filter(None, (place, part.inside, "vars", str(number))))
                tensor = file.tensor(path)
                if tensor is not None:
                    found[weight.name] = tensor
    return found
