"""The services as the gateway sees them: one channel and one stub each, and whether they are well.

The only place in the gateway that opens channels. Knows addresses; nothing of sockets and HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import grpc
from disco.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceStub
from disco.signaling.v1.signaling_service_pb2_grpc import SignalingServiceStub
from disco.task.v1.task_service_pb2_grpc import TaskServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.settings import GatewaySettings
from learning.refusals import DiscoError
from rpc.channel import connect

if TYPE_CHECKING:
    from disco.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceAsyncStub
    from disco.signaling.v1.signaling_service_pb2_grpc import SignalingServiceAsyncStub
    from disco.task.v1.task_service_pb2_grpc import TaskServiceAsyncStub

HEALTH_DEADLINE_S = 1.0


@dataclass(frozen=True)
class ServiceClients:
    """Open with `open`, close with `close`."""

    channels: Mapping[str, grpc.aio.Channel]

    @classmethod
    def open(cls, settings: GatewaySettings) -> Self:
        addresses = {
            "task service": settings.task_service_address,
            "aggregator": settings.aggregator_address,
            "signaling": settings.signaling_address,
        }
        return cls({name: connect(address, settings) for name, address in addresses.items()})

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self.channels.values()))

    def task_service(self) -> TaskServiceAsyncStub:
        return TaskServiceStub(self.channels["task service"])

    def aggregator(self) -> AggregatorServiceAsyncStub:
        return AggregatorServiceStub(self.channels["aggregator"])

    def signaling(self) -> SignalingServiceAsyncStub:
        return SignalingServiceStub(self.channels["signaling"])

    async def health(self) -> dict[str, bool]:
        """Which of the services answers that it serves, by name."""
        answers = await asyncio.gather(*(_serves(channel) for channel in self.channels.values()))
        return dict(zip(self.channels, answers, strict=True))


async def _serves(channel: grpc.aio.Channel) -> bool:
    try:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=HEALTH_DEADLINE_S
        )
    except DiscoError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
