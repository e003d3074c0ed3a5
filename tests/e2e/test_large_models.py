"""A model of 100 MB goes through every process on its way, in and out, and is held by none of them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import Awaitable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from disco.task.v1 import task_pb2, task_service_pb2
from disco.task.v1.task_service_pb2_grpc import TaskServiceStub
from numpy.typing import NDArray

from rpc.chunks import chunks_of
from tests.e2e.system import System
from tests.gateway.task_sources.files import TASK as DOCUMENT

TASK = "large"
INPUTS, UNITS = 249_999, 100
SIZE = 4 * (INPUTS + 1) * UNITS
READERS = 6
CHUNK = 1 << 20
ONCE = 24 << 20
"""What a process takes when it first does this: some of its code and its buffers, whoever asks."""

Specs = Sequence[tuple[str, list[int]]]


class Memory:
    """The most memory that processes hold while something is done, beyond what they held before."""

    def __init__(self, system: System) -> None:
        self._pids = {name: system.children()[name] for name in ("gateway", "task_service")}
        self._before = {name: resident(pid) for name, pid in self._pids.items()}

    async def grown(self, doing: Awaitable[Any]) -> dict[str, int]:
        peaks = dict(self._before)
        running = asyncio.ensure_future(doing)
        while not running.done():
            await asyncio.wait({running}, timeout=0.02)
            peaks = {name: max(peaks[name], resident(pid)) for name, pid in self._pids.items()}
        await running
        return {name: peaks[name] - self._before[name] for name in peaks}


async def test_readers_of_a_large_model_cost_memory_by_the_chunk_and_not_by_the_model(system: System) -> None:
    digest = await asyncio.to_thread(create, system.task_service_address, TASK)
    memory = Memory(system)
    grown = await memory.grown(asyncio.gather(*(read(system.url, digest) for _ in range(READERS))))
    assert all(each <= READERS * 2 * CHUNK + ONCE for each in grown.values()), grown


async def test_writers_of_large_models_cost_memory_by_the_chunk_and_not_by_the_model(system: System) -> None:
    # What should happen: two at once, one of them in another order, one over HTTP, one that the server makes
    # itself: all are kept to the byte, and no process ever holds one.
    specs = (("kernel", [INPUTS, UNITS]), ("bias", [UNITS]))
    weights = np.random.default_rng(7).random(SIZE // 4, dtype="<f4")
    turned = np.concatenate([weights[-UNITS:], weights[:-UNITS]])
    address, digest = system.task_service_address, hashlib.sha256(weights).hexdigest()
    memory = Memory(system)
    two = await memory.grown(
        asyncio.gather(
            asyncio.to_thread(create, address, "in_order", specs, weights),
            asyncio.to_thread(create, address, "turned", specs[::-1], turned),
        )
    )
    posted = await memory.grown(post(system.url, "posted", specs, weights))
    made = await memory.grown(asyncio.to_thread(create, address, TASK))
    assert two["task_service"] <= 2 * 2 * CHUNK + ONCE, (two, posted, made)
    assert all(each <= 2 * 2 * CHUNK + ONCE for each in posted.values()), (two, posted, made)
    assert made["task_service"] <= 2 * CHUNK + ONCE, (two, posted, made)
    for task_id in ("in_order", "turned", "posted"):
        await read(system.url, digest, task_id)


async def read(url: str, digest: str, task_id: str = TASK) -> None:
    """Twice, as clients do: the topology, then the weights; the second half once more, as after a lost connection."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        topology = await http.get(f"tfjs/{task_id}/model.json")
        assert topology.json()["weightsManifest"][0]["weights"][0]["shape"] == [INPUTS, UNITS]
        whole, size = hashlib.sha256(), 0
        async with http.stream("GET", f"tfjs/{task_id}/weights.bin") as answer:
            async for part in answer.aiter_raw():
                whole.update(part)
                size += len(part)
        assert (whole.hexdigest(), size) == (digest, SIZE)
        asked = {"Range": f"bytes={SIZE - 10}-", "If-Range": answer.headers["ETag"]}
        rest = await http.get(f"tfjs/{task_id}/weights.bin", headers=asked)
        assert (rest.status_code, len(rest.content)) == (206, 10)


def create(address: str, task_id: str, specs: Specs = (), weights: NDArray[np.float32] | None = None) -> str:
    """A task with these weights, or those that the server makes; returns their digest."""
    task = task_pb2.Task(
        task_id=task_id,
        scheme=task_pb2.Task.SCHEME_FEDERATED,
        data_kind=task_pb2.Task.DATA_KIND_TABULAR,
        display=task_pb2.DisplayInformation(title="Large"),
        training=task_pb2.TrainingInformation(epochs=1, batch_size=1, input_columns=["x"], output_columns=["y"]),
    )
    model = task_pb2.Model(
        kind=task_pb2.Model.KIND_TFJS,
        topology_json=json.dumps(topology()).encode(),
        weight_specs=[task_pb2.WeightSpec(name=f"dense/{name}", shape=shape) for name, shape in specs],
    )

    def requests() -> Iterator[task_service_pb2.CreateTaskRequest]:
        size = 0 if weights is None else weights.nbytes
        yield task_service_pb2.CreateTaskRequest(
            header=task_service_pb2.CreateTaskRequest.Header(task=task, model=model, weights_size=size)
        )
        for chunk in chunks_of(b"" if weights is None else weights.data):
            yield task_service_pb2.CreateTaskRequest(weights_chunk=chunk)

    with grpc.insecure_channel(address) as channel:
        answer = TaskServiceStub(channel).CreateTask(requests(), timeout=120)
    return bytes(answer.weights_sha256).hex()


async def post(url: str, task_id: str, specs: Specs, weights: NDArray[np.float32]) -> None:
    """A task with these weights, over HTTP, as TF.js saves models."""
    described = [{"name": f"dense/{name}", "shape": shape, "dtype": "float32"} for name, shape in specs]
    model = {"modelTopology": topology(), "weightsManifest": [{"paths": ["w"], "weights": described}]}
    files: list[tuple[str, Any]] = [
        ("task", (None, json.dumps({**DOCUMENT, "id": task_id}).encode())),
        ("model", ("model.json", json.dumps(model).encode())),
        ("weights", ("w", io.BytesIO(weights.tobytes()))),
    ]
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        answer = await http.post("tasks", files=files)
    assert answer.status_code == 200, answer.text


def topology() -> dict[str, Any]:
    dense = {"name": "dense", "units": UNITS, "batch_input_shape": [None, INPUTS], "dtype": "float32"}
    layers = [{"class_name": "Dense", "config": dense}]
    return {"class_name": "Sequential", "config": {"name": TASK, "layers": layers}}


def resident(pid: int) -> int:
    """Bytes of memory a process holds."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        pytest.fail(f"process {pid} ended")
    return int(status.partition("VmRSS:")[2].split()[0]) << 10
