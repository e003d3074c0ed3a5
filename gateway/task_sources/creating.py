"""Hands an offer to the task service. Knows no HTTP and not where the offer came from."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

from disco.task.v1.task_service_pb2 import CreateTaskRequest

from gateway.task_sources.offers import Offer
from rpc.channel import retrying
from rpc.task_messages import task_to_proto

if TYPE_CHECKING:
    from disco.task.v1.task_service_pb2_grpc import TaskServiceAsyncStub

CREATE_WITHIN_S = 60.0


async def create_task(task_service: TaskServiceAsyncStub, offer: Offer) -> None:
    """Creates the task, once, however often it has to be tried. Raises what the task service refuses it with."""
    header = CreateTaskRequest.Header(
        task=task_to_proto(offer.task),
        model=offer.model,
        weights_size=offer.weights_size,
        request_id=uuid.uuid4().hex,
        model_file=offer.model_file,
    )
    if offer.weights_digest is not None:
        header.weights_digest.algorithm = offer.weights_digest.algorithm
        header.weights_digest.value = offer.weights_digest.value

    def parts() -> Iterator[CreateTaskRequest]:
        yield CreateTaskRequest(header=header)
        for chunk in offer.chunks():
            yield CreateTaskRequest(weights_chunk=chunk)

    await retrying(lambda: task_service.CreateTask(parts()), seconds=CREATE_WITHIN_S)
