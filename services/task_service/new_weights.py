"""The weights of a task that is being created: staged as they come, checked block by block, brought into order.

    came      what was sent, on the disk; its digest is computed while it arrives
    examined  read back: every weight is finite, and the disk has what arrived
    kept      in the order in which weights travel: what came, or another staged blob where that was another order

Never holds more of them than a block. Knows the blob store; nothing of gRPC, nor of what is written when.
"""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import structlog

from blobstore.store import BlobStore, Buffer, StagedBlob
from learning.refusals import DigestMismatch, InvalidTask, InvalidWeights, StoreUnavailable, WeightsNotFinite
from learning.task import Task
from rpc.chunks import chunks_of
from services.task_service.new_model import BYTES_PER_WEIGHT, NewModel, initial_weights

BLOCK_BYTES = 1 << 20
INLINE_BYTES = 256 << 10
_DIGESTS = {"sha256": 32, "sha384": 48, "sha512": 64}

_log = structlog.stdlib.get_logger("task_service")


@dataclass(frozen=True, slots=True)
class OfferedWeights:
    """Weights that somebody sends: how many bytes, and the chunks as they come."""

    size: int
    chunks: AsyncGenerator[bytes, None]


def held_weights(weights: Buffer) -> OfferedWeights:
    """Weights that are in memory already."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        for chunk in chunks_of(weights):
            yield chunk

    return OfferedWeights(len(weights), chunks())


def announced_weights(offered: OfferedWeights | None, *, algorithm: str, digest: bytes) -> OfferedWeights:
    """The same weights, which raise DigestMismatch at their end where they are not those that were announced.

    Raises InvalidTask where the digest is none; and DigestMismatch where there are no weights to have it.
    """
    if algorithm not in _DIGESTS:
        raise InvalidTask(field="weights_digest.algorithm", problem=f"is none of {', '.join(_DIGESTS)}")
    if len(digest) != _DIGESTS[algorithm]:
        raise InvalidTask(
            field="weights_digest.value", problem=f"has not the {_DIGESTS[algorithm]} bytes of {algorithm}"
        )
    found = hashlib.new(algorithm)
    if offered is None:
        raise DigestMismatch(received=found.hexdigest(), announced=digest.hex())

    async def chunks() -> AsyncGenerator[bytes, None]:
        async with aclosing(offered.chunks) as came:
            async for chunk in came:
                found.update(chunk)
                yield chunk
        if found.digest() != digest:
            raise DigestMismatch(received=found.hexdigest(), announced=digest.hex())

    return OfferedWeights(offered.size, chunks())


def made_weights(task: Task, new: NewModel) -> OfferedWeights:
    """Initial weights, made in a thread while they are taken."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        blocks = _joined(initial_weights(task, new))
        while block := await asyncio.to_thread(next, blocks, b""):
            yield block

    return OfferedWeights(new.weights_size, chunks())


@asynccontextmanager
async def kept_weights(store: BlobStore, new: NewModel, offered: OfferedWeights) -> AsyncIterator[StagedBlob]:
    """The weights as they are to be kept, to be published or to go with the block.

    Raises InvalidWeights, WeightsNotFinite, StoreUnavailable, and what the chunks raise.
    """
    if list(new.places) == sorted(new.places):
        async with store.staged() as kept:
            await _receive(kept, new, offered)
            yield kept
        return
    async with store.staged() as kept:
        async with store.staged() as came:
            await _receive(came, new, offered)
            await _bring_into_order(came, kept, new)
        yield kept


async def _receive(came: StagedBlob, new: NewModel, offered: OfferedWeights) -> None:
    async with aclosing(offered.chunks) as chunks:
        async for chunk in chunks:
            await came.append(chunk)
    if came.size != new.weights_size:
        raise InvalidWeights(problem=f"{came.size} bytes came, {new.weights_size} belong to the model")
    await _examine(came, new)


async def _examine(came: StagedBlob, new: NewModel) -> None:
    digest = hashlib.sha256()

    def examine(block: bytes) -> int | None:
        """Where in the block the first weight is that is not finite."""
        digest.update(block)
        finite = np.isfinite(np.frombuffer(block, dtype="<f4"))
        return None if finite.all() else int(np.argmin(finite))

    for start, size in _blocks(0, came.size):
        block = await came.read_range(start=start, size=size)
        bad = examine(block) if size <= INLINE_BYTES else await asyncio.to_thread(examine, block)
        if bad is not None:
            raise WeightsNotFinite(tensor=_tensor_at(start // BYTES_PER_WEIGHT + bad, new))
    if digest.hexdigest() != came.digest:
        _log.error("upload.damaged", size=came.size)
        raise StoreUnavailable  # a disk that gives back other bytes: sent again they may be kept better


async def _bring_into_order(came: StagedBlob, kept: StagedBlob, new: NewModel) -> None:
    starts = _starts(new)
    for place, spec in zip(new.places, new.model.weight_specs, strict=True):
        for start, size in _blocks(starts[place] * BYTES_PER_WEIGHT, spec.size * BYTES_PER_WEIGHT):
            await kept.append(await came.read_range(start=start, size=size))
        await asyncio.sleep(0)  # thousands of small tensors are read without a wait in between


def _tensor_at(weight: int, new: NewModel) -> str:
    """Whose weight this is, counted in the order in which they came."""
    place = bisect_right(_starts(new), weight) - 1
    return new.model.weight_specs[new.places.index(place)].name


def _starts(new: NewModel) -> list[int]:
    """Where the tensors begin among the weights that came, and where the last one ends."""
    sizes = [0] * len(new.places)
    for place, spec in zip(new.places, new.model.weight_specs, strict=True):
        sizes[place] = spec.size
    return list(accumulate(sizes, initial=0))


def _blocks(start: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and size of each block."""
    return ((at, min(BLOCK_BYTES, start + size - at)) for at in range(start, start + size, BLOCK_BYTES))


def _joined(blocks: Iterator[Any]) -> Iterator[bytes]:
    """Blocks of about BLOCK_BYTES from arrays of any size: tensors may be thousands, and tiny."""
    gathered = bytearray()
    for block in blocks:
        for chunk in chunks_of(block.data):
            gathered += chunk
            if len(gathered) >= BLOCK_BYTES:
                yield bytes(gathered)
                gathered.clear()
    if gathered:
        yield bytes(gathered)
