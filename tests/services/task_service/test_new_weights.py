"""Weights of any size are staged, checked and brought into order with memory for a few blocks."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from blobstore import names
from blobstore.directory import DirectoryBlobStore
from blobstore.records import Model, WeightSpec
from learning.ids import TaskId
from learning.refusals import InvalidWeights, StoreUnavailable, WeightsNotFinite
from services.task_service.catalog import Catalog
from services.task_service.new_model import planned
from services.task_service.new_weights import BLOCK_BYTES, OfferedWeights, held_weights, kept_weights
from tests.services.task_service.tasks import SPECS, model, task
from tests.services.task_service.topologies import dense, sequential, text
from tests.simulation.memory_blobs import MemoryBlobStore

INPUTS, UNITS = 3 << 20, 4
COUNT = (INPUTS + 1) * UNITS
"""Weights of a model of 48 MiB."""
LIMIT = 100 << 20
WIDE = Model(
    "tfjs",
    text(sequential(dense("d", UNITS), shape=[INPUTS])),
    (WeightSpec("d/kernel", (INPUTS, UNITS)), WeightSpec("d/bias", (UNITS,))),
)
TURNED = replace(WIDE, weight_specs=WIDE.weight_specs[::-1])
BLOCK = np.arange(BLOCK_BYTES // 4, dtype="<f4")


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryBlobStore]:
    # A thread of the pool holds the block of its last work until it runs again: on a busy machine each thread may hold
    # one. With a single thread, what is measured does not hang on how busy it is.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    async with DirectoryBlobStore(tmp_path) as store:
        yield store


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    """Never so many bytes of memory more than before."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit


async def sent() -> AsyncGenerator[bytes, None]:
    """48 MiB and four weights, made as they are taken: the first four have no equal."""
    yield np.array([-1, -2, -3, -4], "<f4").tobytes()
    for number in range(INPUTS * UNITS // len(BLOCK)):
        yield (BLOCK + np.float32(number)).tobytes()


async def digest_of(parts: AsyncGenerator[bytes, None], *, first_last: bool = False) -> str:
    digest, first = hashlib.sha256(), await anext(parts)
    if not first_last:
        digest.update(first)
    async for part in parts:
        digest.update(part)
    if first_last:
        digest.update(first)
    return digest.hexdigest()


@pytest.mark.parametrize("offered", [WIDE, TURNED], ids=["in order", "turned"])
async def test_uploads_hold_a_few_blocks_each_and_never_the_model(store: DirectoryBlobStore, offered: Model) -> None:
    catalog = Catalog(store, max_bytes=LIMIT)

    async def create(task_id: str) -> str:
        weights = OfferedWeights(4 * COUNT, sent())
        record = await catalog.create(task(task_id), offered, weights, request_id="", now=1.0)
        return record.initial_digest

    with at_most(6 * BLOCK_BYTES):
        first = await create("small")
    with at_most(2 * 6 * BLOCK_BYTES):
        others = await asyncio.gather(create("second"), create("third"))
    expected = await digest_of(sent(), first_last=offered is TURNED)
    assert {first, *others} == {expected}
    assert await digest_of(store.read_chunks(names.weights(TaskId("small"), first), chunk_size=BLOCK_BYTES)) == expected


UNIFORM = {"class_name": "RandomUniform", "config": {"minval": -1, "maxval": 1}}


@pytest.mark.parametrize(
    "initializer",
    ["zeros", UNIFORM, {"class_name": "GlorotUniform", "config": {}}, {"class_name": "GlorotNormal", "config": {}}],
)
async def test_weights_that_the_server_makes_and_those_of_a_fork_are_never_held_whole(
    store: DirectoryBlobStore, initializer: object
) -> None:
    catalog = Catalog(store, max_bytes=LIMIT)
    layers = sequential(dense("d", UNITS, kernel_initializer=initializer), shape=[INPUTS])
    unsent = Model("tfjs", text(layers), ())
    with at_most(16 * BLOCK_BYTES):  # a distribution takes some arrays of doubles
        made = await catalog.create(task(), unsent, None, request_id="", now=1.0)
    with at_most(6 * BLOCK_BYTES):
        forked = await catalog.fork(TaskId("small"), None, TaskId("copy"), title="", request_id="", now=2.0)
    assert forked.initial_digest == made.initial_digest
    assert await store.size(names.weights(TaskId("copy"), made.initial_digest)) == 4 * COUNT


async def test_a_request_that_is_repeated_holds_no_model_either(store: DirectoryBlobStore) -> None:
    catalog = Catalog(store, max_bytes=LIMIT)
    first = await catalog.create(task(), WIDE, OfferedWeights(4 * COUNT, sent()), request_id="r", now=1.0)
    with at_most(6 * BLOCK_BYTES):
        again = await catalog.create(task(), WIDE, OfferedWeights(4 * COUNT, sent()), request_id="r", now=2.0)
    assert again == first


@pytest.mark.parametrize(
    ("place", "tensor"), [(0, "d/bias"), (3, "d/bias"), (4, "d/kernel"), (COUNT - 1, "d/kernel"), (1 << 20, "d/kernel")]
)
async def test_one_weight_that_is_not_finite_is_found_in_whatever_block_and_its_tensor_named(
    place: int, tensor: str
) -> None:
    new = planned(task(), TURNED, weights_size=4 * COUNT, max_bytes=LIMIT)
    weights = np.zeros(COUNT, "<f4")
    weights[place] = np.inf
    with pytest.raises(WeightsNotFinite) as refused:
        async with kept_weights(MemoryBlobStore(), new, held_weights(weights.data.cast("B"))):
            pass
    assert refused.value.variables == {"tensor": tensor}


async def test_the_tensor_of_a_weight_that_is_not_finite_is_named_where_all_are_in_one_block() -> None:
    new = planned(task(), model(*SPECS), weights_size=24, max_bytes=LIMIT)
    for place, spec in ((1, "head/kernel"), (2, "head/bias"), (5, "frozen/kernel")):
        weights = np.zeros(6, "<f4")
        weights[place] = np.nan
        with pytest.raises(WeightsNotFinite, match=spec):
            async with kept_weights(MemoryBlobStore(), new, held_weights(weights.tobytes())):
                pass


async def test_weights_that_come_to_another_size_than_was_announced_are_refused() -> None:
    new = planned(task(), model(*SPECS), weights_size=24, max_bytes=LIMIT)
    for size in (0, 20, 28):
        with pytest.raises(InvalidWeights, match=f"{size} bytes came, 24 belong"):
            async with kept_weights(MemoryBlobStore(), new, held_weights(bytes(size))):
                pass


@pytest.mark.parametrize("size", [24, 4 * COUNT])
async def test_a_disk_that_gives_back_other_bytes_is_noticed_before_they_are_published(
    store: DirectoryBlobStore, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    offered = model(*SPECS) if size == 24 else WIDE
    read = os.pread
    monkeypatch.setattr(os, "pread", lambda *where: _changed(read(*where)))
    with pytest.raises(StoreUnavailable):
        await Catalog(store, max_bytes=LIMIT).create(task(), offered, bytes(size), request_id="", now=1.0)
    assert await store.list("") == []


def _changed(data: bytes) -> bytes:
    return b"\1" + data[1:]
