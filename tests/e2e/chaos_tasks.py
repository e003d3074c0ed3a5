"""A small task of a given policy, created over gRPC, and every round of it fed again to another system."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Any

import grpc
from disco.task.v1 import policy_pb2, task_pb2, task_service_pb2, task_service_pb2_grpc
from google.protobuf.duration_pb2 import Duration

from tests.e2e.chaos_participants import Aggregators, Backend, Sent
from tests.e2e.system import System

SHAPES = ((4, 5), (5,))
SIZES = (20, 5)
Request = task_service_pb2.CreateTaskRequest


async def create(system: System, task_id: str, *, policy: policy_pb2.Policy, weights: bytes) -> None:
    """A task with one dense layer."""
    layer = {"name": "d", "units": 5, "batch_input_shape": [None, 4], "dtype": "float32"}
    config = {"name": task_id, "layers": [{"class_name": "Dense", "config": layer}]}
    topology = {"model_config": {"class_name": "Sequential", "config": config}, "keras_version": "tfjs-layers 4.20.0"}
    training = task_pb2.TrainingInformation(
        epochs=1, batch_size=1, input_columns=list("abcd"), output_columns=list("efghi")
    )
    task = task_pb2.Task(
        task_id=task_id,
        scheme=task_pb2.Task.SCHEME_FEDERATED,
        data_kind=task_pb2.Task.DATA_KIND_TABULAR,
        display=task_pb2.DisplayInformation(title=task_id),
        training=training,
        policy=policy,
    )
    specs = zip(("d/kernel", "d/bias"), SHAPES, strict=True)
    model = task_pb2.Model(
        kind=task_pb2.Model.KIND_TFJS,
        topology_json=json.dumps(topology).encode(),
        weight_specs=[task_pb2.WeightSpec(name=name, shape=shape) for name, shape in specs],
    )

    def parts() -> Iterator[Request]:
        yield Request(header=Request.Header(task=task, model=model, weights_size=len(weights), request_id=task_id))
        yield Request(weights_chunk=weights)

    async with grpc.aio.insecure_channel(system.task_service_address) as channel:
        await task_service_pb2_grpc.TaskServiceStub(channel).CreateTask(parts(), timeout=10, wait_for_ready=True)


async def again(
    system: System, aggregators: Aggregators, *, base: bytes, entry: dict[str, Any], sent: dict[str, Sent], seed: int
) -> bytes:
    """The weights of a version that is made of the same contributions, from the same base, in another order."""
    lines = random.Random(seed).sample(entry["contributions"], len(entry["contributions"]))
    task_id = f"again-{entry['version']}"
    policy = policy_pb2.Policy(
        min_participants=1,
        quorum_count=len(lines),
        deadline=Duration(seconds=600),
        staleness_weights=[1],
        max_total_weight=entry["weight_cap"],
    )
    await create(system, task_id, policy=policy, weights=base)

    async def contribute(number: int, line: dict[str, Any]) -> None:
        sender = Backend(task_id, f"again-{number}", aggregators, SIZES, random.Random(number))
        weights = sent[line["digest"]].weights
        # Its lateness is in its weight: here it counts as that many samples of somebody who is in time.
        answer = await sender.submit(Sent(weights, sender.participant_id, 0, line["weight"]))
        assert not isinstance(answer, str)

    await asyncio.gather(*(contribute(number, line) for number, line in enumerate(lines)))
    while (await aggregators.round(task_id)).number == 0:
        await asyncio.sleep(0.02)
    (version,) = system.ledger(task_id)
    return system.weights(task_id, version["digest"])
