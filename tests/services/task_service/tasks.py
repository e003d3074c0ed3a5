"""Tasks and models for tests, small."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blobstore.records import Model, WeightSpec
from learning.ids import TaskId
from learning.task import DataKind, DisplayInformation, Scheme, Task, TrainingInformation
from services.task_service.new_model import planned
from services.task_service.new_weights import held_weights, kept_weights, made_weights
from tests.services.task_service.topologies import dense, layer, sequential, text
from tests.simulation.memory_blobs import MemoryBlobStore


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


async def prepared(
    created: Task, offered: Model, weights: bytes | None, *, max_bytes: int
) -> tuple[Model, NDArray[np.float32]]:
    """The model and the weights that are kept of what is offered."""
    size = None if weights is None else len(weights)
    new = planned(created, offered, weights_size=size, max_bytes=max_bytes)
    came = made_weights(created, new) if weights is None else held_weights(weights)
    async with kept_weights(MemoryBlobStore(), new, came) as kept:
        return new.model, np.frombuffer(await kept.read_range(start=0, size=kept.size), "<f4")


def prepare(
    created: Task, offered: Model, weights: bytes | None, *, max_bytes: int
) -> tuple[Model, NDArray[np.float32]]:
    """The same, where nothing runs."""
    return asyncio.run(prepared(created, offered, weights, max_bytes=max_bytes))
