"""Loads models with a real Keras and says what they answer.

    python load_models.py tf_keras|keras MODEL INPUTS.npz OUTPUTS.npz [MODEL INPUTS.npz OUTPUTS.npz …]

Runs in an environment of its own (`make keras`), so it imports nothing of this repository.
"""

from __future__ import annotations

import importlib
import sys

import numpy as np


def main() -> None:
    keras = importlib.import_module(sys.argv[1])
    for model_path, inputs_path, outputs_path in zip(sys.argv[2::3], sys.argv[3::3], sys.argv[4::3], strict=True):
        model = keras.models.load_model(model_path, compile=False)
        arrays = np.load(inputs_path)
        inputs = [arrays[f"input_{index}"] for index in range(len(model.inputs))]
        outputs = model.predict(inputs if len(inputs) > 1 else inputs[0], verbose=0)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        trained = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
        np.savez(outputs_path, trained=trained, **{f"output_{index}": value for index, value in enumerate(outputs)})


if __name__ == "__main__":
    main()
