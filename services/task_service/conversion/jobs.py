"""What the process can do. Everything happens in its folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from services.task_service.conversion import formats, safetensors
from services.task_service.conversion.keras_2 import write_h5
from services.task_service.conversion.keras_3 import write_keras
from services.task_service.conversion.limits import ConversionLimits
from services.task_service.conversion.tensors import CanonicalWeights, write_weights
from services.task_service.conversion.tfjs_export import write_tfjs
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


def export(order: Mapping[str, Any], limits: ConversionLimits) -> Mapping[str, object]:
    target, source = Path(order["target"]), Path(order["weights"])
    topology, training, labels = order["topology"], order["training_config"], order["labels"]
    specs = [(name, tuple(shape)) for name, shape in order["specs"]]
    weights = CanonicalWeights(source, specs)
    match order["form"]:
        case "tfjs":
            write_tfjs(target, topology, training, specs=specs, weights=source, labels=labels)
        case "h5":
            write_h5(target, topology, weights, labels)
        case "keras":
            write_keras(target, topology, weights, labels)
        case "safetensors":
            described = {"kind": order["kind"], "topology": topology, "training_config": training}
            with target.open("wb") as file, source.open("rb") as data:
                file.write(safetensors.header(specs, {**labels, **described}))
                shutil.copyfileobj(data, file)
    return {}


JOBS: Final[Mapping[str, Job]] = {"convert": convert, "export": export}
