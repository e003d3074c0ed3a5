"""What a program gives to define a task: the record, or a document in a client's words, and a model."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping
from typing import Any, Protocol, runtime_checkable

from learning.task import Task


@runtime_checkable
class KerasModel(Protocol):
    """A model object of Keras 2 (`tf_keras`) or Keras 3 (`keras`)."""

    def save(self, filepath: Any, **options: Any) -> Any: ...

    def get_config(self) -> Any: ...


TaskDescription = Task | Mapping[str, Any]
"""The neutral record; or a JSON document as any generation of clients writes tasks, gaps filled."""

ModelSource = str | os.PathLike[str] | Mapping[str, Any] | bytes | KerasModel
"""Where a model comes from:

    "https://…/model.json"   a TF.js LayersModel at a URL, its shards beside it; fetched within the limits of every URL
    "model/model.json", Path a file or a folder: TF.js, Keras (.h5, .keras), a SavedModel
    a Keras 2 or 3 model     an object, as it is; without Lambda layers and classes of one's own
    a mapping                the artifacts of a TF.js model: modelTopology, weightSpecs, weightData, trainingConfig
    bytes                    a model as a Disco client encodes it
"""


class TaskProvider(ABC):
    """A task and its model. Either method may be a coroutine function.

    class Wine(TaskProvider):
        def get_task(self) -> Task:
            return Task(TaskId("wine"), …)

        def get_model(self) -> ModelSource:
            return "wine/model.json"
    """

    @abstractmethod
    def get_task(self) -> TaskDescription | Awaitable[TaskDescription]:
        """What is to be learned."""

    def get_model(self) -> ModelSource | Awaitable[ModelSource | None] | None:
        """The model to begin with; None: the one at the task's model URL."""
        return None
