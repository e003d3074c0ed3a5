"""Weights change hands in memory in a real system, and nothing of that is left behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import numpy as np
from disco.task.v1 import policy_pb2, task_pb2, task_service_pb2
from disco.task.v1.task_service_pb2_grpc import TaskServiceStub

from rpc.chunks import CHUNK_BYTES
from tests.e2e.raw_clients import GDVParticipant
from tests.e2e.system import System
from tests.waiting import eventually

TASK = "handed-over"
INPUTS, UNITS = 3_000, 100
SHAPES = ((INPUTS, UNITS), (UNITS,))
BYTES = 4 * (INPUTS + 1) * UNITS
TOPOLOGY = (
    b'{"class_name":"Sequential","config":{"name":"s","layers":[{"class_name":"Dense","config":{"name":"dense",'
    b'"units":100,"batch_input_shape":[null,3000],"dtype":"float32"}}]}}'
)


async def test_large_contributions_and_versions_change_hands_in_files_and_a_kill_leaves_none(system: System) -> None:
    # What should happen: both processes use files, before and after the gateway was killed.
    # What should not: a version without what was sent; a file of a process that is gone; a folder that stays.
    assert BYTES > CHUNK_BYTES
    await asyncio.to_thread(create, system.task_service_address)
    folder = handover_folder(system, "gateway")
    assert folder == handover_folder(system, "aggregator")
    await a_round(system, number=1, seed=1)
    assert owners_of_weights(folder) == 2
    await system.kill("gateway")
    await eventually(system.is_ready, 60)
    await a_round(system, number=2, seed=3)
    assert owners_of_weights(folder) == 2
    await system.stop()
    assert not folder.exists()


async def a_round(system: System, *, number: int, seed: int) -> None:
    """Two participants contribute, and are given the version that counts what they sent."""
    people = [
        GDVParticipant(system.url.replace("http", "ws"), TASK, SHAPES, np.random.default_rng(each))
        for each in (seed, seed + 1)
    ]
    async with people[0], people[1], asyncio.timeout(60):
        await asyncio.gather(*(person.run(1) for person in people))
    entry = system.ledger(TASK)[-1]
    assert entry["version"] == number
    assert {line["digest"] for line in entry["contributions"]} == {person.digests[0] for person in people}
    assert [person.adopted[-1] for person in people] == 2 * [system.weights(TASK, entry["digest"])]
    sent = [np.frombuffer(person.sent[0], "<f4").astype(float) for person in people]
    np.testing.assert_allclose(np.frombuffer(people[0].adopted[-1], "<f4"), sum(sent) / 2, atol=1e-6)


def handover_folder(system: System, process: str) -> Path:
    environment = Path(f"/proc/{system.children()[process]}/environ").read_bytes().split(b"\0")
    found = dict(entry.split(b"=", 1) for entry in environment if entry)
    return Path(found[b"DISCO_HANDOVER_DIR"].decode())


def owners_of_weights(folder: Path) -> int:
    """How many processes have files there that hold weights of this task; nobody else may have any."""
    files = [path for path in folder.iterdir() if path.suffix != ".lock"]
    assert all(path.stat().st_size == BYTES for path in files)
    owners = {path.name.split(".")[0] for path in files}
    assert owners <= {path.stem for path in folder.glob("*.lock")}
    return len(owners)


def create(address: str) -> None:
    task = task_pb2.Task(
        task_id=TASK,
        scheme=task_pb2.Task.SCHEME_FEDERATED,
        data_kind=task_pb2.Task.DATA_KIND_TABULAR,
        display=task_pb2.DisplayInformation(title="Handed over"),
        training=task_pb2.TrainingInformation(epochs=1, batch_size=1, input_columns=["x"], output_columns=["y"]),
        policy=policy_pb2.Policy(min_participants=2, quorum_count=2),
    )
    header = task_service_pb2.CreateTaskRequest.Header(
        task=task, model=task_pb2.Model(kind=task_pb2.Model.KIND_TFJS, topology_json=TOPOLOGY)
    )
    with grpc.insecure_channel(address) as channel:
        TaskServiceStub(channel).CreateTask(iter([task_service_pb2.CreateTaskRequest(header=header)]), timeout=60)
