"""Documents over HTTP for every generation, also those nobody has a socket codec for yet.

A table: which renderer of tasks and which of models belong to which name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from disco.task.v1.task_pb2 import Model

from gateway.dialects import model_bodies, task_documents
from gateway.dialects.dialect import ModelBody
from learning.task import Task


@dataclass(frozen=True, slots=True)
class Documents:
    """A rendering made of two functions."""

    name: str
    task: Callable[[Task], dict[str, object]]
    model: Callable[[Model, bytes | memoryview], ModelBody]

    def render_task(self, task: Task) -> dict[str, object]:
        return self.task(task)

    def render_model(self, model: Model, weights: bytes | memoryview) -> ModelBody:
        return self.model(model, weights)


G22 = Documents("g22", task_documents.render_g22, model_bodies.render_g22)
G30 = Documents("g30", task_documents.render_g30, model_bodies.render_g22)
GDV = Documents("gdv", task_documents.render_gdv, model_bodies.render_gdv)
TFJS = Documents("tfjs", task_documents.render_superset, model_bodies.render_tfjs)
# Bodies of models have no superset; at an undecided root a client of G22 or G30 is the likeliest.
SUPERSET = Documents("superset", task_documents.render_superset, model_bodies.render_g22)
