"""What a real Keras saved, kept in this folder, and TF.js in Node to ask what it makes of our reading."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.task_service.conversion.converting import convert_model
from services.task_service.conversion.exporting import export_version

NAMES = ("dense", "images", "words", "nested", "stacked")
FILES = [
    *(
        f"{library}/{name}{suffix}"
        for library in ("tf_keras", "keras")
        for name in NAMES
        for suffix in (".h5", ".keras")
    ),
    *(f"tf_keras/{name}.saved.zip" for name in NAMES),
]
LABELS = {"task_id": "kept", "version": "7", "digest": "d1"}
_SCRIPT = Path(__file__).with_name("predict_in_tfjs.cjs")
Arrays = list[NDArray[Any]]


@dataclass(frozen=True)
class Prediction:
    """What TF.js answers, and how many of the weights it trains."""

    outputs: Arrays
    trained: int


def arrays(folder: Path, file: str, kind: str) -> Arrays:
    """The inputs, or the outputs, that were kept with a model."""
    kept = np.load(folder / f"{file.split('.')[0]}.npz")
    return [kept[f"{kind}_{index}"] for index in range(sum(name.startswith(kind) for name in kept.files))]


async def as_tfjs(source: Path, target: Path) -> str:
    """Converts, and gives the digest of the weights."""
    async with convert_model(source) as converted:
        assert converted.weights is not None
        assert converted.digest is not None
        await export_version(converted.model, converted.weights, form="tfjs", target=target, labels=LABELS)
        return converted.digest


def predictions(node_modules: Path, models: Sequence[tuple[Path, Arrays]]) -> list[Prediction]:
    """What TF.js answers, model by model."""
    lines = [
        json.dumps(
            {
                "name": str(folder),
                "folder": str(folder),
                "inputs": [
                    {"shape": each.shape, "dtype": each.dtype.name, "values": each.ravel().tolist()} for each in inputs
                ],
            }
        )
        for folder, inputs in models
    ]
    done = subprocess.run(
        ["node", str(_SCRIPT)],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "NODE_PATH": str(node_modules)},
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [answer for answer in answers if "error" in answer]
    assert not wrong, wrong
    return [
        Prediction(
            [np.array(output["values"], "<f4").reshape(output["shape"]) for output in answer["outputs"]],
            answer["trained"],
        )
        for answer in answers
    ]


def assert_equal_outputs(ours: Arrays, theirs: Arrays) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)
