"""A model of 100 MB goes through every process on its way, and is held by none of them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from disco.task.v1 import task_pb2, task_service_pb2
from disco.task.v1.task_service_pb2_grpc import TaskServiceStub

from tests.e2e.system import System

TASK = "large"
INPUTS, UNITS = 249_999, 100
SIZE = 4 * (INPUTS + 1) * UNITS
READERS = 6
CHUNK = 1 << 20


async def test_readers_of_a_large_model_cost_memory_by_the_chunk_and_not_by_the_model(system: System) -> None:
    digest = await asyncio.to_thread(create, system.task_service_address)
    pids = {name: system.children()[name] for name in ("gateway", "task_service")}
    before = {name: resident(pid) for name, pid in pids.items()}
    peaks = dict(before)
    reading = asyncio.gather(*(read(system.url, digest) for _ in range(READERS)))
    while not reading.done():
        await asyncio.wait({reading}, timeout=0.02)
        peaks = {name: max(peaks[name], resident(pid)) for name, pid in pids.items()}
    await reading
    grown = {name: (peaks[name] - before[name]) / READERS for name in pids}
    # Two chunks each; and once a process first does this, some of its code and its buffers, whoever asks.
    assert all(each <= 2 * CHUNK + (24 << 20) / READERS for each in grown.values()), grown


async def read(url: str, digest: str) -> None:
    """Twice, as clients do: the topology, then the weights; the second half once more, as after a lost connection."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        topology = await http.get(f"tfjs/{TASK}/model.json")
        assert topology.json()["weightsManifest"][0]["weights"][0]["shape"] == [INPUTS, UNITS]
        whole, size = hashlib.sha256(), 0
        async with http.stream("GET", f"tfjs/{TASK}/weights.bin") as answer:
            async for part in answer.aiter_raw():
                whole.update(part)
                size += len(part)
        assert (whole.hexdigest(), size) == (digest, SIZE)
        asked = {"Range": f"bytes={SIZE - 10}-", "If-Range": answer.headers["ETag"]}
        rest = await http.get(f"tfjs/{TASK}/weights.bin", headers=asked)
        assert (rest.status_code, len(rest.content)) == (206, 10)


def create(address: str) -> str:
    """A task with a model that the server makes; returns the digest of its weights."""
    dense = {"name": "dense", "units": UNITS, "batch_input_shape": [None, INPUTS], "dtype": "float32"}
    layers = [{"class_name": "Dense", "config": dense}]
    topology = {"class_name": "Sequential", "config": {"name": TASK, "layers": layers}}
    task = task_pb2.Task(
        task_id=TASK,
        scheme=task_pb2.Task.SCHEME_FEDERATED,
        data_kind=task_pb2.Task.DATA_KIND_TABULAR,
        display=task_pb2.DisplayInformation(title="Large"),
        training=task_pb2.TrainingInformation(epochs=1, batch_size=1, input_columns=["x"], output_columns=["y"]),
    )
    model = task_pb2.Model(kind=task_pb2.Model.KIND_TFJS, topology_json=json.dumps(topology).encode())

    def requests() -> Iterator[task_service_pb2.CreateTaskRequest]:
        yield task_service_pb2.CreateTaskRequest(
            header=task_service_pb2.CreateTaskRequest.Header(task=task, model=model)
        )

    with grpc.insecure_channel(address) as channel:
        answer = TaskServiceStub(channel).CreateTask(requests(), timeout=60)
    return bytes(answer.weights_sha256).hex()


def resident(pid: int) -> int:
    """Bytes of memory a process holds."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        pytest.fail(f"process {pid} ended")
    return int(status.partition("VmRSS:")[2].split()[0]) << 10
