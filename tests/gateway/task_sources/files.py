"""Models as files, for tests: TF.js documents and their shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

KERNEL = np.arange(8, dtype="<f4").reshape(4, 2)
BIAS = np.array([0.5, -0.5], dtype="<f4")
WEIGHTS = KERNEL.tobytes() + BIAS.tobytes()
SPECS: list[dict[str, Any]] = [
    {"name": "out/kernel", "shape": [4, 2], "dtype": "float32"},
    {"name": "out/bias", "shape": [2], "dtype": "float32"},
]
TOPOLOGY = {
    "class_name": "Sequential",
    "config": {
        "name": "one",
        "layers": [
            {
                "class_name": "Dense",
                "config": {
                    "name": "out",
                    "units": 2,
                    "activation": "softmax",
                    "use_bias": True,
                    "batch_input_shape": [None, 4],
                    "dtype": "float32",
                },
            }
        ],
    },
}
TASK: dict[str, Any] = {
    "id": "wine",
    "displayInformation": {"taskTitle": "Wine", "summary": {"preview": "p", "overview": "o"}},
    "trainingInformation": {
        "dataType": "tabular",
        "scheme": "federated",
        "epochs": 4,
        "roundDuration": 2,
        "batchSize": 10,
        "validationSplit": 0.2,
        "inputColumns": ["a", "b", "c", "d"],
        "outputColumns": ["e", "f"],
    },
}


def document(groups: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    """A model.json; without groups: of one shard with all weights."""
    one = [{"paths": ["group1-shard1of1.bin"], "weights": SPECS}]
    return {"modelTopology": TOPOLOGY, "weightsManifest": one if groups is None else groups, **more}


def write(folder: Path, model: dict[str, Any], shards: dict[str, bytes]) -> Path:
    """The folder, with these files in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps(model))
    for name, data in shards.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
