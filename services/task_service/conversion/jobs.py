"""What the process can do. Everything happens in its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from services.task_service.conversion import formats
from services.task_service.conversion.limits import ConversionLimits
from services.task_service.conversion.tensors import write_weights
from services.task_service.gpt import weights_of_gpt
from services.task_service.topology.weights import weights_of_topology

Job = Callable[[Mapping[str, Any], ConversionLimits], Mapping[str, object]]


def convert(order: Mapping[str, Any], limits: ConversionLimits) -> Mapping[str, object]:
    inside = Path("inside")
    inside.mkdir()
    with formats.reading(Path(order["source"]), inside, limits) as found:
        wanted = weights_of_gpt(found.topology) if found.kind == "gpt" else weights_of_topology(found.topology)
        if found.tensors is not None:
            write_weights(Path("weights.bin"), wanted, found.tensors, limit=limits.weights_bytes)
        return {
            "kind": found.kind,
            "topology": found.topology,
            "training_config": found.training_config,
            "has_weights": found.tensors is not None,
            "source": found.source,
            "notes": found.notes,
        }


JOBS: Final[Mapping[str, Job]] = {"convert": convert}
