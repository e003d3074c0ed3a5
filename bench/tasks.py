"""Tasks to contribute to: made over gRPC as a backend makes them, and what their ledgers say in the end."""

from __future__ import annotations

from pathlib import Path

import grpc
import msgspec
from disco.task.v1 import policy_pb2, task_pb2, task_service_pb2
from disco.task.v1.task_service_pb2_grpc import TaskServiceStub

from blobstore import names
from blobstore.records import LedgerEntry
from learning.ids import TaskId

CALL_S = 30.0
DEADLINE_S = 300
MODELS = {"10 k": (99, 100), "100 k": (999, 100), "1 M": (9_999, 100), "25 M": (249_999, 100)}
"""Inputs and units of a dense layer; it has (inputs + 1) × units weights."""

Shapes = tuple[tuple[int, ...], ...]


def shapes_of(model: str) -> Shapes:
    inputs, units = MODELS[model]
    return (inputs, units), (units,)


def size_of(model: str) -> int:
    """Number of weights."""
    inputs, units = MODELS[model]
    return (inputs + 1) * units


def create(address: str, task_id: str, *, model: str, participants: int) -> None:
    """A task whose rounds take a contribution of each of so many participants."""
    inputs, units = MODELS[model]
    dense = {"name": "dense", "units": units, "batch_input_shape": [None, inputs], "dtype": "float32"}
    layers = [{"class_name": "Dense", "config": dense}]
    topology = {"class_name": "Sequential", "config": {"name": task_id, "layers": layers}}
    task = task_pb2.Task(
        task_id=task_id,
        scheme=task_pb2.Task.SCHEME_FEDERATED,
        data_kind=task_pb2.Task.DATA_KIND_TABULAR,
        display=task_pb2.DisplayInformation(title="Load test"),
        training=task_pb2.TrainingInformation(epochs=1, batch_size=1, input_columns=["x"], output_columns=["y"]),
        policy=policy_pb2.Policy(min_participants=participants, quorum_share=1.0),
    )
    task.policy.deadline.FromSeconds(DEADLINE_S)
    described = task_pb2.Model(kind=task_pb2.Model.KIND_TFJS, topology_json=msgspec.json.encode(topology))
    header = task_service_pb2.CreateTaskRequest.Header(task=task, model=described)
    with grpc.insecure_channel(address) as channel:
        requests = iter([task_service_pb2.CreateTaskRequest(header=header)])
        TaskServiceStub(channel).CreateTask(requests, timeout=CALL_S)


def counted(data_dir: Path, task_id: str) -> int:
    """Contributions that are counted in a version, by the ledger."""
    folder = data_dir.joinpath(*names.versions(TaskId(task_id)).split("/"))
    entries = (msgspec.json.decode(path.read_bytes(), type=LedgerEntry) for path in folder.glob("*.json"))
    return sum(len(entry.contributions) for entry in entries)
