"""The settings of an aggregator."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from blobstore.settings import BlobSettings
from roundstore.redis_settings import RedisSettings
from rpc.settings import HandoverSettings, LeaseSettings, Port, ServerSettings


class AggregatorSettings(ServerSettings, LeaseSettings, HandoverSettings, RedisSettings, BlobSettings):
    """What `python -m services.aggregator` reads from the environment."""

    aggregator_port: Port = Field(50052, description="Port of the aggregator.")
    aggregator_metrics_port: Port = Field(9052, description="Port of its Prometheus endpoint; 0: none.")
    upload_memory_bytes: int = Field(
        100_663_296, ge=1 << 20, description="Bytes of contributions that one aggregator holds at once; others wait."
    )
    kept_versions: int = Field(
        100, ge=0, description="How many of the newest versions of a task keep their weights; 0: all."
    )
    receipt_key: Path | None = Field(
        None,
        description="PEM file: Ed25519 private key that signs receipts. Absent: one that is made once and kept.",
    )
