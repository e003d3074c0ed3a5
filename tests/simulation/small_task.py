"""The task of every schedule: four weights, so that whole rounds cost nothing, in three tensors of unlike sizes."""

from __future__ import annotations

import struct

from blobstore.records import Model, WeightSpec
from blobstore.store import BlobStore
from learning.aggregation import Aggregation
from learning.ids import TaskId
from learning.policy import Policy
from learning.task import DataKind, DisplayInformation, Scheme, Task, TrainingInformation
from tests.blobstore.tasks import write_task

TASK_ID = TaskId("titanic")
BASE = (0.5, -1.0, 0.25, 0.01)
SIZES = (2, 1, 1)
"""The last tensor is small enough to need two limbs."""


async def add_task(blobs: BlobStore, policy: Policy, aggregation: Aggregation | None) -> None:
    task = Task(
        task_id=TASK_ID,
        scheme=Scheme.FEDERATED,
        data_kind=DataKind.TABULAR,
        display=DisplayInformation(title="A task"),
        training=TrainingInformation(epochs=1, batch_size=1, input_columns=("a",), output_columns=("b",)),
        policy=policy,
        aggregation=aggregation,
    )
    specs = tuple(WeightSpec(f"tensor{index}", (size,)) for index, size in enumerate(SIZES))
    model = Model(kind="tfjs", topology_json="{}", weight_specs=specs)
    await write_task(blobs, task, model, struct.pack(f"<{len(BASE)}f", *BASE), request_id="", now=1.0)
