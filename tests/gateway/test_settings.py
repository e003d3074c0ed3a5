"""The gateway's settings."""

from __future__ import annotations

import re

import pytest
from pydantic import SecretStr, ValidationError

from gateway.settings import GatewaySettings
from rpc.settings import KNOWN_NAMES


def test_every_setting_is_known_to_all_processes() -> None:
    assert {f"DISCO_{name.upper()}" for name in GatewaySettings.model_fields} <= KNOWN_NAMES


@pytest.mark.parametrize(
    ("creation", "host", "token", "effective"),
    [
        ("auto", "127.0.0.1", "", "local"),
        ("auto", "localhost", "secret", "local"),
        ("auto", "::1", "", "local"),
        ("auto", "0.0.0.0", "", "off"),
        ("auto", "0.0.0.0", "secret", "token"),
        ("auto", "example.org", "", "off"),
        ("open", "0.0.0.0", "", "open"),
        ("off", "127.0.0.1", "secret", "off"),
        ("token", "127.0.0.1", "secret", "token"),
    ],
)
def test_strangers_create_tasks_only_where_somebody_said_so(
    creation: str, host: str, token: str, effective: str
) -> None:
    settings = GatewaySettings(task_creation=creation, gateway_host=host, task_token=SecretStr(token))  # type: ignore[arg-type]
    assert settings.effective_task_creation == effective


def test_table_of_origins_is_checked_at_start() -> None:
    assert GatewaySettings(origin_dialects="https://a.example=g22").dialects_by_origin == {"https://a.example": "g22"}
    with pytest.raises(ValidationError, match=r"must be origin=dialect with commas between them; 'x=g22'|is no origin"):
        GatewaySettings(origin_dialects="x=g22")


@pytest.mark.parametrize(
    ("creation", "host", "token", "sentence"),
    [
        ("auto", "127.0.0.1", "", "Programs of this machine may create, change and delete tasks; of others nobody."),
        ("auto", "127.0.0.1", "secret", "of others whoever sends the token in DISCO_TASK_TOKEN."),
        ("auto", "0.0.0.0", "", "Nobody may .* set DISCO_TASK_TOKEN, or DISCO_TASK_CREATION=open"),
        ("auto", "0.0.0.0", "secret", "Whoever sends the token"),
        ("open", "0.0.0.0", "", "Everybody"),
        ("off", "0.0.0.0", "", "Nobody may create, change or delete tasks .DISCO_TASK_CREATION=off"),
    ],
)
def test_who_may_create_tasks_is_said_in_a_sentence(creation: str, host: str, token: str, sentence: str) -> None:
    settings = GatewaySettings(task_creation=creation, gateway_host=host, task_token=SecretStr(token))  # type: ignore[arg-type]
    assert re.search(sentence, settings.who_may_create)
    assert "secret" not in settings.who_may_create


def test_token_policy_without_a_token_is_refused() -> None:
    with pytest.raises(ValidationError, match="needs DISCO_TASK_TOKEN"):
        GatewaySettings(task_creation="token")
