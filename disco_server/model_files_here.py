"""Models in files of this machine, for the command line: read in any format, written in any.

Reading and writing foreign formats happens in a process of its own (`services.task_service.conversion`). Knows no
server and prints nothing.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from blobstore.records import Model, WeightSpec
from gateway.task_sources.model_files import MODEL_FILE, ModelFiles
from learning.refusals import InvalidModel
from services.task_service.conversion.converting import ConvertedModel, convert_model
from services.task_service.conversion.exporting import FORMS, export_version

WEIGHTS_FILE = "weights.bin"
ENDINGS = {"h5": ".h5", "keras": ".keras", "safetensors": ".safetensors"}
MAX_BYTES = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ReadModel:
    """A model on this machine; `weights` is a file that goes with the block that read it."""

    model: Model
    weights: Path | None
    digest: str | None
    source: str
    notes: tuple[str, ...]


@contextmanager
def read_model(path: Path) -> Iterator[ReadModel]:
    """Reads a file or folder of any format. Raises InvalidModel, WeightsNotFinite, TooLarge."""
    with TemporaryDirectory(prefix="disco-") as folder:
        yield asyncio.run(_converted(path, Path(folder)))


async def _converted(path: Path, folder: Path) -> ReadModel:
    async with convert_model(path) as found:
        return await asyncio.to_thread(_kept, found, folder)


def _kept(found: ConvertedModel, folder: Path) -> ReadModel:
    weights = None
    if found.weights is not None:
        weights = folder / WEIGHTS_FILE
        shutil.copyfile(found.weights, weights)
    return ReadModel(found.model, weights, found.digest, found.source, found.notes)


@contextmanager
def upload_of(path: Path) -> Iterator[list[tuple[str, str, Path]]]:
    """What is sent for a model: field, name and path of `model.json` and of every shard, or of the file of a GPT.

    Raises InvalidModel."""
    if (path / MODEL_FILE).is_file():
        path = path / MODEL_FILE
    if path.suffix == ".json":
        files = ModelFiles(path.parent, file=path.name, limit_bytes=MAX_BYTES)
        files.check()
        yield [("model", MODEL_FILE, path), *(("weights", shard, path.parent / shard) for shard in files.shards)]
        return
    with read_model(path) as found, TemporaryDirectory(prefix="disco-") as folder:
        if found.model.kind != "tfjs":  # a GPT has no form in TF.js, and the one that it came in is read by the server
            yield [("model", f"model{path.suffix}", path)]
            return
        write_model(found.model, found.weights, form="tfjs", target=Path(folder) / "model", labels={})
        with upload_of(Path(folder) / "model") as files_there:
            yield files_there


def model_of_document(document: Mapping[str, Any]) -> Model:
    """The model that a `model.json` of a server describes."""
    specs = [spec for group in document.get("weightsManifest", []) for spec in group["weights"]]
    training = document.get("trainingConfig")
    return Model(
        kind="tfjs",
        topology_json=json.dumps(document["modelTopology"]),
        weight_specs=tuple(WeightSpec(spec["name"], tuple(spec["shape"])) for spec in specs),
        training_config_json="" if training is None else json.dumps(training),
    )


def write_model(model: Model, weights: Path | None, *, form: str, target: Path, labels: Mapping[str, str]) -> None:
    """Writes a model to a file, or to a folder for TF.js. Raises InvalidModel, OSError."""
    if form == "tfjs":
        _write_layers(model, weights, target, labels)
    elif form not in FORMS:
        raise InvalidModel(problem=f"it cannot be written as {form}; use one of {', '.join(FORMS)}")
    elif weights is None:
        raise InvalidModel(problem=f"it has no weights, which {form} must have; write it as tfjs")
    else:
        asyncio.run(export_version(model, weights, form=form, target=target, labels=labels))


def _write_layers(model: Model, weights: Path | None, target: Path, labels: Mapping[str, str]) -> None:
    if model.kind != "tfjs":
        raise InvalidModel(problem="it has no layers: a GPT is no TF.js LayersModel")
    target.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"format": "layers-model", "modelTopology": json.loads(model.topology_json)}
    if labels:
        document["userDefinedMetadata"] = dict(labels)
    if model.training_config_json:
        document["trainingConfig"] = json.loads(model.training_config_json)
    if weights is not None:
        specs = [{"name": spec.name, "shape": list(spec.shape), "dtype": "float32"} for spec in model.weight_specs]
        document["weightsManifest"] = [{"paths": [WEIGHTS_FILE], "weights": specs}]
        if weights != target / WEIGHTS_FILE:
            shutil.copyfile(weights, target / WEIGHTS_FILE)
    (target / MODEL_FILE).write_text(json.dumps(document), encoding="utf-8")
