"""The way out: a version as a file that others read.

    tfjs         a folder with model.json and weights.bin, as `tf.loadLayersModel` takes it
    h5           Keras 2, which is tf_keras today
    keras        Keras 3
    safetensors  the weights as they travel, under their names; the topology is in its metadata

Each of them read again by `convert_model` gives the same weights, byte for byte.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from blobstore.records import Model
from learning.refusals import InvalidModel
from services.task_service.conversion.limits import ConversionLimits
from services.task_service.conversion.workroom import absolute, workroom

FORMS: Final = ("tfjs", "h5", "keras", "safetensors")
_RESULT: Final = "exported"


async def export_version(
    model: Model,
    weights: Path,
    *,
    form: str,
    target: Path,
    labels: Mapping[str, str],
    limits: ConversionLimits | None = None,
) -> None:
    """Writes a version to `target`, whole or not at all; `labels` (task_id, version, digest) go with it where they can.

    Raises InvalidModel (also where the model has what the form cannot say), and OSError.
    """
    if form not in FORMS:
        raise InvalidModel(problem=f"it cannot be written as {form[:32]}; use one of {', '.join(FORMS)}")
    if model.kind != "tfjs" and form != "safetensors":
        raise InvalidModel(problem="it has no layers: a GPT is written as safetensors only")
    arguments = {
        "form": form,
        "weights": absolute(weights),
        "kind": model.kind,
        "topology": model.topology_json,
        "training_config": model.training_config_json,
        "specs": [[spec.name, list(spec.shape)] for spec in model.weight_specs],
        "labels": dict(labels),
        "target": _RESULT,
    }
    async with workroom("export", arguments, limits=limits or ConversionLimits()) as (folder, _):
        await asyncio.to_thread(_hand_over, folder / _RESULT, target)


def _hand_over(result: Path, target: Path) -> None:
    """Beside the target first, since the folder of the process may be on another disk."""
    beside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        if result.is_dir():
            shutil.copytree(result, beside)
        else:
            shutil.copyfile(result, beside)
        beside.replace(target)
    finally:
        if beside.is_dir():
            shutil.rmtree(beside)
        beside.unlink(missing_ok=True)
