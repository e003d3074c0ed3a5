"""The settings of the signaling service."""

from __future__ import annotations

from pydantic import Field

from blobstore.settings import BlobSettings
from roundstore.redis_settings import RedisSettings
from rpc.settings import LeaseSettings, Port, ServerSettings


class SignalingSettings(ServerSettings, LeaseSettings, BlobSettings, RedisSettings):
    """What `python -m services.signaling` reads from the environment."""

    signaling_port: Port = Field(50053, description="Port the signaling service listens on.")
    signaling_metrics_port: Port = Field(9053, description="Port of its Prometheus endpoint; 0 turns it off.")
