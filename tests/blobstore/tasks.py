"""Tasks that are written as the task service writes them."""

from __future__ import annotations

from typing import Any

from blobstore import records
from blobstore.records import Model, TaskRecord
from blobstore.store import BlobStore, Buffer
from learning.task import Task


async def write_task(store: BlobStore, task: Task, model: Model, weights: Buffer, **more: Any) -> TaskRecord:
    """With weights that are at hand."""
    async with store.staged() as staged:
        await staged.append(weights)
        return await records.write_task(store, task, model, staged, **more)
