"""A model's file in a foreign format, as it comes in: what it holds, as the task service keeps models.

Of what the sender calls the file only the end counts, and never reaches a path but as one of FORMATS. The file and
what is made of it lie on the disk; neither is held in memory here (the process that converts it has limits).
Knows no gRPC.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Final

from blobstore.disk_calls import faults
from blobstore.records import Model
from blobstore.store import StoreFull
from learning.refusals import InvalidModel, StorageFull
from services.task_service.conversion.converting import convert_model
from services.task_service.conversion.limits import ConversionLimits
from services.task_service.new_model import BYTES_PER_WEIGHT
from services.task_service.new_weights import BLOCK_BYTES, OfferedWeights

FORMATS: Final = (".h5", ".hdf5", ".keras", ".safetensors", ".zip")


@asynccontextmanager
async def converted_file(
    name: str, chunks: AsyncGenerator[bytes, None], *, max_bytes: int
) -> AsyncIterator[tuple[Model, OfferedWeights | None]]:
    """The model in a file, and its weights, None where it has none.

    Raises InvalidModel, WeightsNotFinite, TooLarge, StorageFull, and what the chunks raise.
    """
    ending = next((ending for ending in FORMATS if name.lower().endswith(ending)), None)
    if ending is None:
        raise InvalidModel(
            problem=f"{name[-64:]!r} is no file that is converted here; it may end with {', '.join(FORMATS)}"
        )
    with tempfile.TemporaryDirectory(prefix="disco-foreign-") as folder:
        path = Path(folder) / f"model{ending}"
        try:
            await _write(path, chunks)
        except StoreFull:
            raise StorageFull from None
        async with convert_model(path, limits=ConversionLimits(weights_bytes=max_bytes)) as converted:
            path.unlink()
            weights = converted.weights
            yield (
                converted.model,
                OfferedWeights(converted.model.size * BYTES_PER_WEIGHT, _blocks_of(weights)) if weights else None,
            )


async def _write(path: Path, chunks: AsyncGenerator[bytes, None]) -> None:
    # Without a buffer: what it still held would be written, and fail, once more when the file is closed.
    with path.open("wb", buffering=0) as file:

        def write(chunk: bytes) -> None:
            rest = memoryview(chunk)
            while rest:
                rest = rest[file.write(rest) :]

        async with aclosing(chunks):
            async for chunk in chunks:
                with faults():
                    await asyncio.to_thread(write, chunk)


async def _blocks_of(path: Path) -> AsyncGenerator[bytes, None]:
    with path.open("rb", buffering=0) as file:
        while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
            yield block
