"""Disco's server side on one machine: the command `disco-server`, and the library. Owns no rule.

from disco_server import Disco, Task, TaskProvider
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from disco_server.cannot_start import CannotStart
    from disco_server.library import Disco
    from disco_server.task_provider import ModelSource, TaskDescription, TaskProvider
    from learning.aggregation import Aggregation, AggregationRule
    from learning.ids import TaskId
    from learning.policy import Policy
    from learning.task import DataExample, DataKind, DisplayInformation, Scheme, Task, TrainingInformation

__all__ = [
    "Aggregation",
    "AggregationRule",
    "CannotStart",
    "DataExample",
    "DataKind",
    "Disco",
    "DisplayInformation",
    "ModelSource",
    "Policy",
    "Scheme",
    "Task",
    "TaskDescription",
    "TaskId",
    "TaskProvider",
    "TrainingInformation",
]

_HOMES = {
    "Aggregation": "learning.aggregation",
    "AggregationRule": "learning.aggregation",
    "CannotStart": "disco_server.cannot_start",
    "Disco": "disco_server.library",
    "ModelSource": "disco_server.task_provider",
    "Policy": "learning.policy",
    "TaskDescription": "disco_server.task_provider",
    "TaskId": "learning.ids",
    "TaskProvider": "disco_server.task_provider",
}


def __getattr__(name: str) -> Any:
    # When it is asked for: the command that only starts processes need not wait for the library.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "learning.task")), name)
