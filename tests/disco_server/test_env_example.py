"""`.env.example` names every setting with the default that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values
from pydantic import SecretStr

from disco_server.settings import LauncherSettings
from gateway.settings import GatewaySettings
from rpc.settings import KNOWN_NAMES, PREFIX, DiscoSettings
from services.aggregator.settings import AggregatorSettings
from services.signaling.settings import SignalingSettings
from services.task_service.settings import TaskServiceSettings

EXAMPLE = Path(__file__).resolve().parents[2] / ".env.example"
SETTING = re.compile(r"#(DISCO_[A-Z0-9_]+)=(\S*)  # (\S.+)")
PROCESSES: tuple[type[DiscoSettings], ...] = (
    GatewaySettings,
    TaskServiceSettings,
    AggregatorSettings,
    SignalingSettings,
    LauncherSettings,
)
COMPOSE = EXAMPLE.with_name("docker-compose.yml")
# Ports inside of a container meet nobody else's, certificates and task files only their owner can mount,
# and the launcher does not run there.
NOT_FOR_CONTAINERS = {
    "DISCO_AGGREGATORS",
    "DISCO_AGGREGATOR_METRICS_PORT",
    "DISCO_AGGREGATOR_PORT",
    "DISCO_GATEWAY_METRICS_PORT",
    "DISCO_RECEIPT_KEY",
    "DISCO_SIGNALING_METRICS_PORT",
    "DISCO_SIGNALING_PORT",
    "DISCO_TASKS_FOLDER",
    "DISCO_TASK_SERVICE_METRICS_PORT",
    "DISCO_TASK_SERVICE_PORT",
    "DISCO_TLS_CA",
    "DISCO_TLS_CERT",
    "DISCO_TLS_KEY",
}
NOT_IN_A_PROCESS = {"DISCO_PUBLISH_ADDRESS"}


def examples() -> dict[str, str]:
    found = SETTING.findall(EXAMPLE.read_text())
    assert len(found) == len({name for name, _, _ in found}), "a setting stands there twice"
    return {name: value for name, value, _ in found}


def as_text(default: object) -> str:
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if default is None:
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_example_names_every_setting_and_no_other() -> None:
    assert examples().keys() == KNOWN_NAMES


def test_every_line_is_prose_or_a_setting_with_its_explanation() -> None:
    strange = [
        line
        for line in EXAMPLE.read_text().splitlines()
        if line and not line.startswith("# ") and line != "#" and not SETTING.fullmatch(line)
    ]
    assert strange == []


@pytest.mark.parametrize("process", PROCESSES)
def test_example_has_the_defaults_of_the_code(process: type[DiscoSettings]) -> None:
    defaults = {PREFIX + name.upper(): as_text(field.default) for name, field in process.model_fields.items()}
    if process is LauncherSettings:
        del defaults["DISCO_REDIS_URL"]  # the launcher starts one of its own
    assert {name: examples()[name] for name in defaults} == defaults


def test_every_setting_belongs_to_a_process() -> None:
    named = {PREFIX + name.upper() for process in PROCESSES for name in process.model_fields}
    assert KNOWN_NAMES - named == NOT_IN_A_PROCESS


def test_example_with_every_line_in_force_is_what_a_user_would_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(re.sub(r"^#(DISCO_)", r"\1", EXAMPLE.read_text(), flags=re.M))
    assert dict(dotenv_values(tmp_path / ".env")) == examples()


def test_containers_are_given_every_setting_that_is_not_fixed_there() -> None:
    named = set(re.findall(r"DISCO_[A-Z0-9_]+", COMPOSE.read_text()))
    assert named <= KNOWN_NAMES
    assert KNOWN_NAMES - named == NOT_FOR_CONTAINERS
