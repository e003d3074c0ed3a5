"""A model as `tf.loadLayersModel` takes it: model.json, and weights.bin beside it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec


def write_tfjs(
    folder: Path,
    topology: str,
    training_config: str,
    *,
    specs: Sequence[tuple[str, Sequence[int]]],
    weights: Path,
    labels: Mapping[str, str],
) -> None:
    described = [{"name": name, "shape": list(shape), "dtype": "float32"} for name, shape in specs]
    document: dict[str, object] = {
        "modelTopology": msgspec.Raw(topology.encode()),
        "format": "layers-model",
        "generatedBy": "Disco",
        "convertedBy": None,
        "userDefinedMetadata": dict(labels),
        "weightsManifest": [{"paths": ["weights.bin"], "weights": described}],
    }
    if training_config:
        document["trainingConfig"] = msgspec.Raw(training_config.encode())
    folder.mkdir()
    (folder / "model.json").write_bytes(msgspec.json.encode(document))
    shutil.copyfile(weights, folder / "weights.bin")
