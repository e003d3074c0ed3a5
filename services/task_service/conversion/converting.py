"""The way in: a file or a folder that holds a model becomes a TF.js LayersModel with canonical weights.

What the process answered is not trusted either: its topology is read by the parser that
reads every upload, and the weights must be what that topology says.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from blobstore.records import Model, WeightSpec
from learning.refusals import InvalidModel
from services.task_service.conversion.limits import ConversionLimits
from services.task_service.conversion.workroom import absolute, workroom
from services.task_service.gpt import weights_of_gpt
from services.task_service.topology.weights import weights_of_topology

WEIGHTS = "weights.bin"
_BLOCK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ConvertedModel:
    """A model as the task service takes it."""

    model: Model
    """Its weight specs are in the order in which weights travel; its training configuration is "" if none was found."""
    weights: Path | None
    """A file with the canonical weights, gone when the context ends; None where none came: the server makes them."""
    digest: str | None
    """SHA-256 of the weights."""
    source: str
    """What was read, for people: "Keras 3 (.keras)"."""
    notes: tuple[str, ...]
    """What was left out, in sentences."""


class _Answer(msgspec.Struct):
    kind: str
    topology: str
    training_config: str
    has_weights: bool
    source: str
    notes: list[str]


@asynccontextmanager
async def convert_model(path: Path, *, limits: ConversionLimits | None = None) -> AsyncIterator[ConvertedModel]:
    """Reads a model of any format. Raises InvalidModel, WeightsNotFinite, TooLarge."""
    limits = limits or ConversionLimits()
    async with workroom("convert", {"source": absolute(path)}, limits=limits) as (folder, answer):
        yield await asyncio.to_thread(_read_back, folder, msgspec.convert(answer, _Answer))


def _read_back(folder: Path, answer: _Answer) -> ConvertedModel:
    wanted = weights_of_gpt(answer.topology) if answer.kind == "gpt" else weights_of_topology(answer.topology)
    specs = tuple(WeightSpec(weight.name, weight.shape) for weight in wanted)
    model = Model(answer.kind, answer.topology, specs, answer.training_config)
    weights = folder / WEIGHTS if answer.has_weights else None
    if weights is not None and weights.stat().st_size != 4 * model.size:
        raise InvalidModel(problem="its weights are not as many as its layers have")
    digest = None if weights is None else _digest(weights)
    return ConvertedModel(model, weights, digest, answer.source, tuple(answer.notes))


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
