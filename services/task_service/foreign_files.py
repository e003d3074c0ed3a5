"""A model's file in a foreign format, as it came in: what it holds, as the task service keeps models.

Of what the sender calls the file only the end counts, and never reaches a path but as one of FORMATS. Knows no gRPC.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Final

from blobstore.records import Model
from blobstore.store import Buffer
from learning.refusals import InvalidModel
from services.task_service.conversion.converting import convert_model
from services.task_service.conversion.limits import ConversionLimits

FORMATS: Final = (".h5", ".hdf5", ".keras", ".safetensors", ".zip")


async def converted_file(name: str, data: Buffer, *, max_bytes: int) -> tuple[Model, bytes | None]:
    """The model in a file, and its weights, None where it has none. Raises InvalidModel, WeightsNotFinite, TooLarge."""
    ending = next((ending for ending in FORMATS if name.lower().endswith(ending)), None)
    if ending is None:
        raise InvalidModel(
            problem=f"{name[-64:]!r} is no file that is converted here; it may end with {', '.join(FORMATS)}"
        )
    with tempfile.TemporaryDirectory(prefix="disco-foreign-") as folder:
        path = Path(folder) / f"model{ending}"
        await asyncio.to_thread(path.write_bytes, data)
        async with convert_model(path, limits=ConversionLimits(weights_bytes=max_bytes)) as converted:
            weights = await asyncio.to_thread(converted.weights.read_bytes) if converted.weights else None
            return converted.model, weights
