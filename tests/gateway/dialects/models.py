"""A small TF.js model and a small GPT, with weights that show their order."""

import json

import numpy as np
from disco.task.v1.task_pb2 import Model, WeightSpec

TOPOLOGY = {
    "class_name": "Sequential",
    "config": {
        "name": "sequential_1",
        "layers": [
            {
                "class_name": "Dense",
                "config": {
                    "name": "dense_1",
                    "units": 2,
                    "activation": "sigmoid",
                    "use_bias": True,
                    "batch_input_shape": [None, 3],
                    "dtype": "float32",
                },
            }
        ],
    },
    "keras_version": "tfjs-layers 4.22.0",
    "backend": "tensor_flow.js",
}
TRAINING_CONFIG = {
    "loss": "binaryCrossentropy",
    "metrics": ["accuracy"],
    "optimizer_config": {"class_name": "SGD", "config": {"learning_rate": 0.01}},
}
SPECS = (("dense_1/kernel", (3, 2)), ("dense_1/bias", (2,)))
WEIGHTS = np.arange(8, dtype="<f4").tobytes()

TFJS = Model(
    kind=Model.KIND_TFJS,
    topology_json=json.dumps(TOPOLOGY).encode(),
    weight_specs=[WeightSpec(name=name, shape=shape) for name, shape in SPECS],
    training_config_json=json.dumps(TRAINING_CONFIG).encode(),
)
GPT = Model(
    kind=Model.KIND_GPT,
    topology_json=b'{"modelType":"gpt-nano","vocabSize":50258}',
    weight_specs=[WeightSpec(name="wte", shape=[2]), WeightSpec(name="wpe", shape=[1])],
)
GPT_WEIGHTS = np.array([1.5, 0, 2], "<f4").tobytes()
