"""Settings of every process: `DISCO_*` environment variables, checked before anything starts.

    DiscoSettings
    └── ProcessSettings     logs, metrics, the size limit, token and certificates
        └── ServerSettings  where a gRPC service listens
    LeaseSettings           how long a place is kept, beside ServerSettings
    HandoverSettings        where weights are handed over, beside ProcessSettings

Each process subclasses one of them with plain fields (`gateway_port: Port = 8080` is
`DISCO_GATEWAY_PORT`) and calls `load`. An empty variable counts as absent. Knows the
names of all settings, so that a misspelt one is refused, and no process.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "DISCO_"
TEST_PREFIX = "DISCO_TEST_"

KNOWN_NAMES = frozenset(
    PREFIX + name
    for name in (
        "AGGREGATORS",
        "AGGREGATOR_ADDRESS",
        "AGGREGATOR_METRICS_PORT",
        "AGGREGATOR_PORT",
        "BLOB_URL",
        "DATA_DIR",
        "DEFAULT_DIALECT",
        "DEFAULT_TASKS",
        "DIALECT_MEMORY_S",
        "DURABILITY",
        "FETCH_NETWORKS",
        "FORWARDED_FOR",
        "GATEWAY_HOST",
        "GATEWAY_METRICS_PORT",
        "GATEWAY_PORT",
        "HANDOVER_DIR",
        "KEPT_VERSIONS",
        "LOG_FORMAT",
        "LOG_LEVEL",
        "MAX_MESSAGE_BYTES",
        "MAX_SOCKETS",
        "MAX_STORED_BYTES",
        "MAX_TASKS",
        "METRICS_HOST",
        "ORIGIN_DIALECTS",
        "PARTICIPANT_LEASE_S",
        "PUBLISH_ADDRESS",  # of docker-compose.yml alone
        "POLL_HOLD_S",
        "RECEIPT_KEY",
        "REDIS_URL",
        "S3_ACCESS_KEY_ID",
        "S3_ENDPOINT",
        "S3_REGION",
        "S3_SECRET_ACCESS_KEY",
        "SERVICE_HOST",
        "SERVICE_TOKEN",
        "SIGNALING_ADDRESS",
        "SIGNALING_METRICS_PORT",
        "SIGNALING_PORT",
        "TASKS_FOLDER",
        "TASK_CREATION",
        "TASK_SERVICE_ADDRESS",
        "TASK_SERVICE_METRICS_PORT",
        "TASK_SERVICE_PORT",
        "TASK_TOKEN",
        "TLS_CA",
        "TLS_CERT",
        "TLS_KEY",
        "UPLOADS_PER_MINUTE",
        "UPLOAD_MEMORY_BYTES",
    )
)
"""Every setting of every process. One environment may serve them all, so each knows the names of the others."""

Port = Annotated[int, Field(ge=0, le=65535)]
"""A TCP port; 0 lets the system choose one, or turns an endpoint off."""


class DiscoSettings(BaseSettings):
    """What all settings classes share: where values come from. Construct with `load`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")


class ProcessSettings(DiscoSettings):
    """What every process has."""

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="How log lines look; auto is console on a terminal and json elsewhere."
    )
    metrics_host: str = Field("127.0.0.1", description="Address the Prometheus endpoints listen on.")
    max_message_bytes: int = Field(
        104_857_600,
        ge=1024,
        le=2**31 - 1,
        description="The one size limit: bytes of a message, a model, a contribution.",
    )
    service_token: SecretStr = Field(
        SecretStr(""), description="Shared by all processes: what every gRPC call must carry. Empty: no check."
    )
    tls_cert: Path | None = Field(None, description="PEM file: certificate of this process. Absent: no TLS.")
    tls_key: Path | None = Field(None, description="PEM file: private key of that certificate.")
    tls_ca: Path | None = Field(
        None, description="PEM file: authority that servers are checked against, and clients, which then need one too."
    )

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("DISCO_TLS_CERT and DISCO_TLS_KEY must be given together.")
        return self


class LeaseSettings(DiscoSettings):
    """What every process has that keeps places: one definition, so that one environment suits all of them."""

    participant_lease_s: float = Field(
        30.0, ge=1, le=3600, description="Seconds a participant or peer keeps its place after its connection is gone."
    )


class HandoverSettings(DiscoSettings):
    """What gateways and aggregators have that hand weights over in files (`rpc.handover`)."""

    handover_dir: Path | None = Field(
        None, description="Folder in memory that gateways and aggregators of one machine share. Absent: they stream."
    )

    @field_validator("handover_dir")
    @classmethod
    def _is_a_folder(cls, value: Path | None) -> Path | None:
        if value is not None and not os.access(value, os.R_OK | os.W_OK | os.X_OK):
            raise ValueError("must be a folder that exists and may be read and written")
        return value


class ServerSettings(ProcessSettings):
    """What every gRPC service has."""

    service_host: str = Field("127.0.0.1", description="Address the gRPC services listen on.")

    @model_validator(mode="after")
    def _authority_comes_with_a_certificate(self) -> Self:
        # Without this a forgotten certificate would quietly mean a service without TLS.
        if self.tls_ca is not None and self.tls_cert is None:
            raise ValueError("A service with DISCO_TLS_CA must be given DISCO_TLS_CERT and DISCO_TLS_KEY, too.")
        return self


Settings = TypeVar("Settings", bound=DiscoSettings)


def load(settings_class: type[Settings]) -> Settings:
    """Reads the environment. On a bad value or an unknown `DISCO_*` name: prints a sentence for each, exits with 2."""
    strangers = {PREFIX + name.upper() for name in settings_class.model_fields} - KNOWN_NAMES
    if strangers:
        raise AssertionError(f"{sorted(strangers)} must be in KNOWN_NAMES, or other processes would refuse them")
    problems = list(_unknown_names(os.environ))
    try:
        settings = settings_class()
    except ValidationError as error:
        problems += [_sentence(settings_class, detail) for detail in error.errors()]
    if problems:
        print(*problems, sep="\n", file=sys.stderr)
        raise SystemExit(2)
    return settings


def _unknown_names(environment: Iterable[str]) -> Iterable[str]:
    for name in sorted(environment):
        if name.upper().startswith(TEST_PREFIX):
            continue  # settings of the tests, which start processes in their own environment
        if name.upper().startswith(PREFIX) and name.upper() not in KNOWN_NAMES:
            close = difflib.get_close_matches(name.upper(), KNOWN_NAMES, n=1)
            hint = f"Did you mean {close[0]}?" if close else "The settings are listed in .env.example."
            yield f"{name} is not a setting of Disco. {hint}"


def _sentence(settings_class: type[DiscoSettings], detail: ErrorDetails) -> str:
    """One problem in words: what must be set, to what, and what it is instead."""
    if not detail["loc"]:
        return detail["msg"].removeprefix("Value error, ")
    field_name = str(detail["loc"][0])
    name = PREFIX + field_name.upper()
    field = settings_class.model_fields[field_name]
    if detail["type"] == "missing":
        return f"{name} must be set."
    if detail["type"] == "value_error":
        expected = detail["msg"].removeprefix("Value error, ")
    else:
        expected = f"must be {_expected(field, detail['msg'])}"
    given = "" if _holds_secret(field.annotation) else f", not '{detail['input']}'"
    return f"{name} {expected}{given}."


def _holds_secret(kind: Any) -> bool:
    return kind is SecretStr or any(_holds_secret(part) for part in get_args(kind))


def _expected(field: FieldInfo, message: str) -> str:
    """What a field takes, in words; pydantic's own words for types that no setting has had so far."""
    kind: Any = field.annotation
    if choices := get_args(kind):
        texts = [str(choice) for choice in choices if isinstance(choice, str)]
        if len(texts) == len(choices):
            return "one of " + ", ".join(texts)
    nouns = {int: "a whole number", float: "a number", bool: "true or false"}
    if kind not in nouns:
        return f"valid ({message})"
    return nouns[kind] + _bounds(field)


def _bounds(field: FieldInfo) -> str:
    """` between 0 and 65535`, ` of at least 1`, ` above 0`; nothing where there are none."""
    found = {
        key: getattr(limit, key) for key in ("ge", "gt", "le", "lt") for limit in field.metadata if hasattr(limit, key)
    }
    if {"ge", "le"} <= found.keys():
        return f" between {found['ge']} and {found['le']}"
    words = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
    parts = [f"{words[key]} {value}" for key, value in found.items()]
    return " " + " and ".join(parts) if parts else ""
