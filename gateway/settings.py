"""Settings of the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from gateway.dialects.origin_table import origin_table
from gateway.own_machine import is_loopback
from gateway.sessions.federated import ANSWER_WITHIN_S
from gateway.task_sources.allowed_addresses import Network, networks
from rpc.settings import HandoverSettings, Port, ProcessSettings


class GatewaySettings(ProcessSettings, HandoverSettings):
    """Where the gateway listens, whom it calls, and what it allows."""

    gateway_host: str = Field("127.0.0.1", description="Address the gateway listens on; 0.0.0.0 for all.")
    gateway_port: Port = Field(8080, description="Port of HTTP and WebSocket.")
    gateway_metrics_port: Port = Field(9080, description="Port of the gateway's Prometheus endpoint; 0 turns it off.")
    task_service_address: str = Field("127.0.0.1:50051", description="gRPC target of the task service.")
    aggregator_address: str = Field("127.0.0.1:50052", description="gRPC target of the aggregators.")
    signaling_address: str = Field("127.0.0.1:50053", description="gRPC target of the signaling service.")
    task_creation: Literal["auto", "open", "token", "off"] = Field(
        "auto",
        description="Who may create tasks: everybody, who has DISCO_TASK_TOKEN, nobody. "
        "auto: this machine for itself where the gateway listens on loopback only; else with the token if one is set.",
    )
    task_token: SecretStr = Field(
        SecretStr(""), description="What `Authorization: Bearer …` must hold to create tasks."
    )
    default_dialect: Literal["auto", "g21", "g22", "g30", "gdv"] = Field(
        "auto", description="What is spoken with a client that shows no sign of its generation."
    )
    origin_dialects: str = Field(
        "",
        description="Dialects of web applications that are known by their origins: "
        "https://app.example=g22,https://other.example=g30. Empty: none.",
    )
    dialect_memory_s: float = Field(
        300.0,
        ge=0,
        le=3600,
        description="Seconds for which a client that shows no sign of its generation is taken for what its address "
        "spoke last; 0: never.",
    )
    poll_hold_s: float = Field(
        8.0,
        ge=0,
        le=ANSWER_WITHIN_S,
        description="Seconds for which the newest version is held back for a client that asks until there is news.",
    )

    max_sockets: int = Field(
        10_000, ge=1, description="Sockets that may be open at once; one more is refused at the upgrade with 503."
    )

    uploads_per_minute: int = Field(
        60, ge=0, description="Requests that create, change or delete tasks, of one address in a minute; 0: any number."
    )
    forwarded_for: Literal["ignored", "trusted"] = Field(
        "ignored",
        description="trusted: the last address in X-Forwarded-For is who asks; only behind a proxy that always sets "
        "it.",
    )

    fetch_networks: str = Field(
        "",
        description="Networks beyond the public internet from which models may be fetched, by plain http, too: "
        "10.0.0.0/8,127.0.0.0/8. Empty: none.",
    )

    tasks_folder: Path | None = Field(
        None, description="Folder of task files that is loaded at start and watched. Absent: none."
    )

    @field_validator("tasks_folder")
    @classmethod
    def _is_a_folder(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError("must be a folder that exists")
        return value

    @field_validator("fetch_networks")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        try:
            networks(value)
        except ValueError as error:
            raise ValueError(f"must be networks with commas between them; {error}") from None
        return value

    @field_validator("origin_dialects")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        try:
            origin_table(value)
        except ValueError as error:
            raise ValueError(f"must be origin=dialect with commas between them; {error}") from None
        return value

    @property
    def dialects_by_origin(self) -> Mapping[str, str]:
        return origin_table(self.origin_dialects)

    @property
    def networks_to_fetch_from(self) -> tuple[Network, ...]:
        return networks(self.fetch_networks)

    @model_validator(mode="after")
    def _token_policy_has_a_token(self) -> Self:
        if self.task_creation == "token" and not self.task_token.get_secret_value():
            raise ValueError("DISCO_TASK_CREATION=token needs DISCO_TASK_TOKEN.")
        return self

    @property
    def effective_task_creation(self) -> Literal["open", "local", "token", "off"]:
        """What `auto` comes to; local: this machine for itself, others with the token if one is set."""
        if self.task_creation != "auto":
            return self.task_creation
        if is_loopback(self.gateway_host):
            return "local"
        return "token" if self.task_token.get_secret_value() else "off"

    @property
    def who_may_create(self) -> str:
        """The same in a sentence, for whoever starts the gateway."""
        token = "whoever sends the token in DISCO_TASK_TOKEN" if self.task_token.get_secret_value() else "nobody"
        match self.effective_task_creation:
            case "open":
                return "Everybody who reaches this gateway may create, change and delete tasks."
            case "local":
                return f"Programs of this machine may create, change and delete tasks; of others {token}."
            case "token":
                return "Whoever sends the token in DISCO_TASK_TOKEN may create, change and delete tasks."
            case "off" if self.task_creation == "off":
                return "Nobody may create, change or delete tasks (DISCO_TASK_CREATION=off)."
            case "off":
                return (
                    "Nobody may create, change or delete tasks, because others reach this gateway: "
                    "set DISCO_TASK_TOKEN, or DISCO_TASK_CREATION=open."
                )
