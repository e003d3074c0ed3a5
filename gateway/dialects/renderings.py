"""Documents over HTTP that belong to no generation of clients: TF.js itself, and whoever shows no sign of its own.

A table: which renderers belong to which name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from disco.task.v1.task_pb2 import Model

from gateway.dialects import model_bodies, task_documents
from gateway.dialects.dialect import ModelBody, ModelHead
from learning.task import Task


@dataclass(frozen=True, slots=True)
class Documents:
    """A rendering made of functions."""

    name: str
    task: Callable[[Task], dict[str, object]]
    model: Callable[[Model, bytes | memoryview], ModelBody]
    head: Callable[[Model, int], ModelHead | None]

    def render_task(self, task: Task) -> dict[str, object]:
        return self.task(task)

    def render_model(self, model: Model, weights: bytes | memoryview) -> ModelBody:
        return self.model(model, weights)

    def render_head(self, model: Model, weights_size: int) -> ModelHead | None:
        return self.head(model, weights_size)


TFJS = Documents("tfjs", task_documents.render_superset, model_bodies.render_tfjs, model_bodies.tfjs_head)
# Bodies of models have no superset; at an undecided root a client of G22 or G30 is the likeliest.
SUPERSET = Documents("superset", task_documents.render_superset, model_bodies.render_g22, model_bodies.layers_head)
