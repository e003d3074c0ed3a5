"""The process of the signaling service: reads its settings, puts the parts together, serves."""

from __future__ import annotations

import asyncio
import secrets
import time

import grpc
from disco.signaling.v1 import signaling_service_pb2_grpc

from blobstore.opening import open_store
from learning.ids import ReplicaId
from roundstore.redis_peer_store import RedisPeerStore
from roundstore.redis_settings import connect
from rpc import logs
from rpc.metrics import new_registry
from rpc.server import run, serve
from rpc.settings import load
from services.signaling.servicer import SignalingServicer
from services.signaling.settings import SignalingSettings
from services.signaling.signaling_metrics import SignalingMetrics
from services.signaling.switchboard import Switchboard
from services.signaling.task_book import TaskBook


async def main(settings: SignalingSettings) -> None:
    registry = new_registry()
    async with open_store(settings, reads_only=True) as blobs, connect(settings.redis_url) as redis:
        switchboard = Switchboard(
            RedisPeerStore(redis),
            replica_id=ReplicaId(f"signaling-{secrets.token_hex(6)}"),
            clock=time.time,
            lease_s=settings.participant_lease_s,
            metrics=SignalingMetrics(registry),
        )
        servicer = SignalingServicer(switchboard, TaskBook(blobs, clock=time.time))

        def add_servicers(server: grpc.aio.Server) -> None:
            signaling_service_pb2_grpc.add_SignalingServiceServicer_to_server(servicer, server)

        async def redis_answers() -> bool:
            return bool(await redis.ping())

        # A group, so that a bug that ends the watching ends the process, and is seen.
        async with asyncio.TaskGroup() as background:
            watching = background.create_task(switchboard.watch())
            await serve(
                add_servicers,
                names=["disco.signaling.v1.SignalingService"],
                host=settings.service_host,
                port=settings.signaling_port,
                settings=settings,
                metrics_port=settings.signaling_metrics_port,
                registry=registry,
                endless=["/disco.signaling.v1.SignalingService/Connect"],
                readiness=redis_answers,
            )
            watching.cancel()
            await switchboard.aclose()


if __name__ == "__main__":
    signaling_settings = load(SignalingSettings)
    logs.configure("signaling", level=signaling_settings.log_level, format=signaling_settings.log_format)
    run(main(signaling_settings))
