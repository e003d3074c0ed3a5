"""The process of the aggregator: reads its settings, puts the parts together, serves."""

from __future__ import annotations

import sys
import time
from contextlib import AsyncExitStack

import grpc
from disco.aggregator.v1 import aggregator_service_pb2_grpc

from blobstore import names
from blobstore.opening import open_store
from blobstore.store import BlobStore
from roundstore.redis_settings import connect
from roundstore.redis_store import RedisRoundStore
from rpc import logs
from rpc.channel import retrying
from rpc.handover import opened
from rpc.metrics import new_registry
from rpc.server import run, serve
from rpc.settings import load
from services.aggregator.receipt_key import NotAReceiptKey, ReceiptKey, shared_key
from services.aggregator.replica import Replica
from services.aggregator.settings import AggregatorSettings

KEY_WITHIN_S = 60.0


async def receipt_key(settings: AggregatorSettings, blobs: BlobStore) -> ReceiptKey:
    """Ends the process with a sentence where the key cannot be used: signing with another one would help nobody."""
    try:
        if settings.receipt_key is not None:
            return ReceiptKey.from_pem(settings.receipt_key.read_bytes())
        return await retrying(lambda: shared_key(blobs), seconds=KEY_WITHIN_S)
    except OSError as fault:
        sys.exit(f"Cannot read the receipt key {settings.receipt_key} (DISCO_RECEIPT_KEY): {fault.strerror}.")
    except NotAReceiptKey:
        where = settings.receipt_key or f"{names.receipt_key()} in the blob store"
        sys.exit(f"{where} is no Ed25519 private key in PEM. Restore it: with another one, old receipts do not verify.")


async def main(settings: AggregatorSettings) -> None:
    registry = new_registry()
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(connect(settings.redis_url))
        blobs = await stack.enter_async_context(open_store(settings))
        handover = stack.enter_context(opened(settings.handover_dir))
        replica = Replica(
            RedisRoundStore(redis),
            blobs,
            receipt_key=await receipt_key(settings, blobs),
            registry=registry,
            clock=time.time,
            participant_lease_s=settings.participant_lease_s,
            max_bytes=settings.max_message_bytes,
            upload_memory_bytes=settings.upload_memory_bytes,
            kept_versions=settings.kept_versions,
            handover=handover,
        )

        def add_servicers(server: grpc.aio.Server) -> None:
            aggregator_service_pb2_grpc.add_AggregatorServiceServicer_to_server(replica.servicer, server)

        async def store_answers() -> bool:
            return bool(await redis.ping())

        async with replica.running():
            await serve(
                add_servicers,
                names=["disco.aggregator.v1.AggregatorService"],
                host=settings.service_host,
                port=settings.aggregator_port,
                settings=settings,
                metrics_port=settings.aggregator_metrics_port,
                registry=registry,
                endless=["/disco.aggregator.v1.AggregatorService/WatchRounds"],
                readiness=store_answers,
            )


if __name__ == "__main__":
    aggregator_settings = load(AggregatorSettings)
    logs.configure("aggregator", level=aggregator_settings.log_level, format=aggregator_settings.log_format)
    run(main(aggregator_settings))
