"""The settings of the task service."""

from __future__ import annotations

from pydantic import Field, field_validator

from blobstore.settings import BlobSettings
from roundstore.redis_settings import RedisSettings
from rpc.settings import Port, ServerSettings
from services.task_service.default_tasks import DEFAULT_TASKS


class TaskServiceSettings(ServerSettings, RedisSettings, BlobSettings):
    """What `python -m services.task_service` reads from the environment."""

    task_service_port: Port = Field(50051, description="Port of the task service.")
    task_service_metrics_port: Port = Field(9051, description="Port of its Prometheus endpoint; 0: none.")
    default_tasks: str = Field("all", description="Tasks that are there from the start: all, none, or ids with commas.")
    max_tasks: int = Field(1000, ge=0, description="How many tasks there may be; 0: any number.")
    max_stored_bytes: int = Field(
        10_737_418_240, ge=0, description="Bytes of the models of all tasks together, as created; 0: any number."
    )

    @field_validator("default_tasks")
    @classmethod
    def _names_default_tasks(cls, value: str) -> str:
        unknown = [task_id for task_id in _split(value) if task_id not in DEFAULT_TASKS]
        if value not in ("all", "none") and (unknown or not _split(value)):
            raise ValueError(f"must be all, none, or some of {', '.join(DEFAULT_TASKS)}, with commas between them")
        return value

    @property
    def default_task_ids(self) -> list[str]:
        if self.default_tasks == "all":
            return list(DEFAULT_TASKS)
        return [] if self.default_tasks == "none" else _split(self.default_tasks)


def _split(value: str) -> list[str]:
    return [task_id for part in value.split(",") if (task_id := part.strip())]
