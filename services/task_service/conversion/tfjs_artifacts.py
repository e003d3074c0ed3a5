"""A TF.js LayersModel in files: model.json and the shards beside it, quantized ones too.

Shards are named by the file of a stranger, so a name is a plain one, in the same folder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from learning.limits import MAX_TENSORS
from learning.refusals import InvalidModel, TooLarge
from services.task_service.conversion.documents import read_document
from services.task_service.conversion.limits import ConversionLimits
from services.task_service.conversion.tensors import Found, Tensor
from services.task_service.topology.weights import weights_of_topology

GRAPH = (
    "it is a GraphModel: the operations of a finished model, without the layers and weights that training needs. Take"
    " the model that it was made of, and save it as .keras, .h5 or a TF.js LayersModel"
)
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")
_SIZES = {"float32": 4, "int32": 4, "bool": 1, "complex64": 8, "uint8": 1, "uint16": 2, "float16": 2}
_SHARDS = 4096

_Dimension = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class _Quantization(msgspec.Struct):
    dtype: str
    scale: float = 1.0
    min: float = 0.0


class _Spec(msgspec.Struct):
    name: str
    shape: Annotated[list[_Dimension], msgspec.Meta(max_length=8)]
    dtype: str = "float32"
    group: str | None = None
    quantization: _Quantization | None = None

    @property
    def stored(self) -> str:
        return self.quantization.dtype if self.quantization else self.dtype


class _Group(msgspec.Struct):
    paths: Annotated[list[str], msgspec.Meta(max_length=_SHARDS)]
    weights: Annotated[list[_Spec], msgspec.Meta(max_length=2 * MAX_TENSORS)]


@dataclass(frozen=True, slots=True)
class _Shards:
    """Files that are read as one."""

    paths: Sequence[Path]
    sizes: Sequence[int]

    def read(self, start: int, size: int) -> bytes:
        parts, at = [], 0
        for path, length in zip(self.paths, self.sizes, strict=True):
            first, last = max(start, at), min(start + size, at + length)
            if first < last:
                with path.open("rb") as file:
                    file.seek(first - at)
                    parts.append(file.read(last - first))
            at += length
        return b"".join(parts)


def read(path: Path, limits: ConversionLimits) -> Found:
    """Raises InvalidModel, TooLarge."""
    document = read_document(path, path.name[:100])
    described = document.get("modelTopology", document)
    if document.get("format") == "graph-model" or (isinstance(described, dict) and "node" in described):
        raise InvalidModel(problem=GRAPH)
    if not isinstance(described, dict):
        raise InvalidModel(problem=f"{path.name[:100]} has no modelTopology")
    topology = msgspec.json.encode(described).decode()
    training = document.get("trainingConfig")
    tensors = _tensors(document.get("weightsManifest"), path.parent, limits)
    return Found(
        topology,
        "TF.js LayersModel",
        _named(topology, tensors) if tensors else None,
        msgspec.json.encode(training).decode() if isinstance(training, dict) else "",
    )


def _tensors(manifest: object, folder: Path, limits: ConversionLimits) -> dict[str, Tensor]:
    try:
        groups = msgspec.convert(manifest or [], list[_Group])
    except msgspec.ValidationError as error:
        raise InvalidModel(problem=f"its weightsManifest cannot be read: {str(error)[:200]}") from None
    found: dict[str, Tensor] = {}
    for group in groups:
        for name, tensor in _of_group(group, folder, limits).items():
            if name in found:
                raise InvalidModel(problem=f"two of its weights are called {name[:100]}")
            found[name] = tensor
    return found


def _of_group(group: _Group, folder: Path, limits: ConversionLimits) -> dict[str, Tensor]:
    paths = [_shard(folder, name) for name in group.paths]
    shards = _Shards(paths, [path.stat().st_size for path in paths])
    announced = 0
    for spec in group.weights:
        if spec.stored not in _SIZES:
            raise InvalidModel(problem=f"weight {spec.name[:100]} is of type {spec.stored[:32]}, which is unknown")
        announced += _SIZES[spec.stored] * math.prod(spec.shape)
    if sum(shards.sizes) != announced:
        problem = f"its shards have {sum(shards.sizes)} bytes, its weightsManifest announces {announced}"
        raise InvalidModel(problem=problem)
    if announced > limits.file_bytes:
        raise TooLarge(limit_bytes=limits.file_bytes)
    found, start = {}, 0
    for spec in group.weights:
        if spec.group != "optimizer":
            found[spec.name] = Tensor(tuple(spec.shape), spec.dtype, partial(_values, shards, start, spec))
        start += _SIZES[spec.stored] * math.prod(spec.shape)
    return found


def _shard(folder: Path, name: str) -> Path:
    path = folder / name
    if not _SHARD.fullmatch(name) or path.is_symlink():
        raise InvalidModel(problem=f"the shard {name[:100]!r} must be a plain file beside model.json")
    if not path.is_file():
        raise InvalidModel(
            problem=f"its shard {name} is missing; put all files of the model into one folder or archive"
        )
    return path


def _values(shards: _Shards, start: int, spec: _Spec) -> NDArray[Any]:
    stored = np.frombuffer(
        shards.read(start, _SIZES[spec.stored] * math.prod(spec.shape)), np.dtype(spec.stored).newbyteorder("<")
    )
    if spec.quantization is None or spec.quantization.dtype == "float16":
        return stored
    if spec.quantization.dtype not in ("uint8", "uint16"):
        raise InvalidModel(problem=f"weight {spec.name[:100]} is quantized as {spec.quantization.dtype[:32]}")
    # As TF.js: in float64, rounded once.
    return (stored * float(spec.quantization.scale) + float(spec.quantization.min)).astype("<f4")


def _named(topology: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By our names: Keras puts that of a cell before the last part, and TF.js lets it be."""
    names = {weight.name for weight in weights_of_topology(topology)}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parts = name.split("/")
        ours = name if name in names else "/".join([*parts[:-2], parts[-1]])
        if ours not in names or ours in found:
            raise InvalidModel(problem=f"the topology has no tensor {name[:256]}, or it came twice")
        found[ours] = tensor
    return found
