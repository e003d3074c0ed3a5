"""Settings of the launcher: its own, and those of the processes that it must know to start them."""

from __future__ import annotations

from pydantic import Field

from blobstore.settings import BlobSettings
from rpc.settings import Port, ServerSettings


class LauncherSettings(ServerSettings, BlobSettings):
    """A port of 0 means any that is free (metrics: none)."""

    gateway_host: str = Field("127.0.0.1", description="Address the gateway listens on.")
    gateway_port: Port = Field(8080, description="Port of the gateway.")
    task_service_port: Port = Field(50051, description="Port of the task service.")
    aggregator_port: Port = Field(50052, description="Port of the aggregator; further ones get any that is free.")
    signaling_port: Port = Field(50053, description="Port of the signaling service.")
    gateway_metrics_port: Port = Field(9080, description="Port of the gateway's metrics.")
    task_service_metrics_port: Port = Field(9051, description="Port of the task service's metrics.")
    aggregator_metrics_port: Port = Field(9052, description="Port of the aggregator's metrics.")
    signaling_metrics_port: Port = Field(9053, description="Port of the signaling service's metrics.")
    aggregators: int = Field(1, ge=1, le=64, description="How many aggregators the launcher starts.")
    redis_url: str = Field("", description="Redis to use. Empty: the launcher starts one.")
