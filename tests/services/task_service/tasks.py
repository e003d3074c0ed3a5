"""Tasks and models for tests, small."""

from __future__ import annotations

from typing import Any

from blobstore.records import Model, WeightSpec
from learning.ids import TaskId
from learning.task import DataKind, DisplayInformation, Scheme, Task, TrainingInformation
from tests.services.task_service.topologies import dense, layer, sequential, text


def task(task_id: str = "small", **training: Any) -> Task:
    return Task(
        TaskId(task_id),
        Scheme.FEDERATED,
        DataKind.TABULAR,
        DisplayInformation(title="A small task"),
        TrainingInformation(epochs=2, batch_size=1, input_columns=("a", "b"), output_columns=("c",), **training),
    )


def model(*specs: WeightSpec) -> Model:
    """Five trainable weights and one that is not, listed before them in the topology."""
    frozen = dense("frozen", 1, trainable=False, use_bias=False, kernel_initializer="ones")
    topology = sequential(layer("Reshape", "row", target_shape=[2]), frozen, dense("head", 2), shape=[2])
    return Model("tfjs", text(topology), specs)


SPECS = (WeightSpec("head/kernel", (1, 2)), WeightSpec("head/bias", (2,)), WeightSpec("frozen/kernel", (2, 1)))
"""Of that model, in the order in which weights travel."""
