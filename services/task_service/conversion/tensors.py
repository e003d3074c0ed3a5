"""What the readers find: named tensors, written one after another in the order in which weights travel.

A tensor is read when it is written, and not before; so memory holds one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learning.limits import MAX_TENSORS
from learning.refusals import InvalidModel, InvalidWeights, TooLarge, WeightsNotFinite
from services.task_service.topology.layer import Weight

_EXACT = ("float32", "float16")
"""What becomes float32 without loss."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file: what is known before it is read."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Found:
    """What a reader made of a file."""

    topology: str
    source: str
    tensors: Mapping[str, Tensor] | None
    """By their TF.js names; None where the file has the architecture alone."""
    training_config: str = ""
    notes: list[str] = field(default_factory=list)
    kind: str = "tfjs"


class CanonicalWeights:
    """The weights of a version in a file, tensor by tensor."""

    def __init__(self, path: Path, specs: Sequence[tuple[str, Sequence[int]]]) -> None:
        self._path = path
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        at = 0
        for name, shape in specs:
            self._places[name] = (at, tuple(shape))
            at += 4 * math.prod(shape)
        if path.stat().st_size != at:
            raise InvalidWeights(problem=f"{path.stat().st_size} bytes came, {at} belong to the model")

    def read(self, name: str) -> NDArray[np.float32]:
        start, shape = self._places[name]
        with self._path.open("rb") as file:
            file.seek(start)
            return np.fromfile(file, "<f4", math.prod(shape)).reshape(shape)


def write_weights(path: Path, wanted: Sequence[Weight], tensors: Mapping[str, Tensor], *, limit: int) -> None:
    """Raises InvalidModel, WeightsNotFinite, TooLarge."""
    if len(wanted) > MAX_TENSORS:
        raise InvalidModel(problem=f"it has more than {MAX_TENSORS} tensors")
    if 4 * sum(math.prod(weight.shape) for weight in wanted) > limit:
        raise TooLarge(limit_bytes=limit)
    for weight in wanted:
        _check(weight, tensors.get(weight.name))
    with path.open("wb") as file:
        for weight in wanted:
            values = np.ascontiguousarray(tensors[weight.name].read(), dtype="<f4")
            if values.size != math.prod(weight.shape):
                raise InvalidModel(problem=f"tensor {weight.name} has fewer or more values than it announces")
            if not np.isfinite(values).all():
                raise WeightsNotFinite(tensor=weight.name)
            file.write(values.data)


def _check(weight: Weight, tensor: Tensor | None) -> None:
    if tensor is None:
        raise InvalidModel(problem=f"the file has no weights for {weight.name}")
    if tensor.shape != weight.shape:
        raise InvalidModel(
            problem=f"tensor {weight.name} has the shape {list(tensor.shape)}, its layer needs {list(weight.shape)}"
        )
    if tensor.dtype not in _EXACT:
        raise InvalidModel(problem=f"tensor {weight.name} is of type {tensor.dtype[:32]}; weights must be float32")
