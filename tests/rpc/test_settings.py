"""Settings: defaults, and one clear sentence per problem."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, SecretStr, field_validator

from rpc.settings import KNOWN_NAMES, DiscoSettings, Port, ProcessSettings, ServerSettings, load


class Example(ServerSettings):
    """Fields of every type, under names that exist."""

    gateway_port: Port = Field(8080, description="A port.")
    participant_lease_s: float = Field(30.0, gt=0, description="A duration.")
    aggregators: int = Field(1, ge=1, description="A number.")
    durability: Literal["second", "always"] = Field("second", description="A choice.")
    task_token: SecretStr | None = Field(None, description="A secret.")
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="A text.")
    task_creation: bool = Field(False, description="A switch.")

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, url: str) -> str:
        if not url.startswith("redis://"):
            raise ValueError("must begin with redis://")
        return url


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("DISCO_"):
            monkeypatch.delenv(name)


def refused(
    settings_class: type[DiscoSettings],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    **values: str,
) -> list[str]:
    """The lines that are printed for these variables."""
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as exit_:
        load(settings_class)
    assert exit_.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()


def test_defaults_are_those_that_are_written_down() -> None:
    settings = load(ServerSettings)
    assert settings.model_dump() == {
        "log_level": "info",
        "log_format": "auto",
        "metrics_host": "127.0.0.1",
        "max_message_bytes": 104_857_600,
        "service_token": SecretStr(""),
        "tls_cert": None,
        "tls_key": None,
        "tls_ca": None,
        "service_host": "127.0.0.1",
    }


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCO_GATEWAY_PORT", "9000")
    monkeypatch.setenv("DISCO_PARTICIPANT_LEASE_S", "2.5")
    monkeypatch.setenv("DISCO_TASK_TOKEN", "hush")
    settings = load(Example)
    assert (settings.gateway_port, settings.participant_lease_s) == (9000, 2.5)
    assert settings.task_token is not None
    assert settings.task_token.get_secret_value() == "hush"
    assert "hush" not in repr(settings)


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCO_GATEWAY_PORT", "")
    assert load(Example).gateway_port == 8080


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(Example).gateway_port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("GATEWAY_PORT", "abc", "must be a whole number between 0 and 65535, not 'abc'."),
        ("GATEWAY_PORT", "70000", "must be a whole number between 0 and 65535, not '70000'."),
        ("GATEWAY_PORT", "1.5", "must be a whole number between 0 and 65535, not '1.5'."),
        ("PARTICIPANT_LEASE_S", "0", "must be a number above 0, not '0'."),
        ("PARTICIPANT_LEASE_S", "soon", "must be a number above 0, not 'soon'."),
        ("AGGREGATORS", "0", "must be a whole number of at least 1, not '0'."),
        ("DURABILITY", "never", "must be one of second, always, not 'never'."),
        ("LOG_LEVEL", "loud", "must be one of debug, info, warning, error, not 'loud'."),
        ("TASK_CREATION", "perhaps", "must be true or false, not 'perhaps'."),
        ("REDIS_URL", "http://x", "must begin with redis://, not 'http://x'."),
    ],
)
def test_a_bad_value_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, sentence: str
) -> None:
    assert refused(Example, monkeypatch, capsys, **{f"DISCO_{name}": value}) == [f"DISCO_{name} {sentence}"]


def test_a_setting_without_a_default_must_be_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Required(DiscoSettings):
        data_dir: Path

    assert refused(Required, monkeypatch, capsys) == ["DISCO_DATA_DIR must be set."]


def test_a_bad_secret_is_not_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Short(DiscoSettings):
        task_token: Annotated[SecretStr, Field(max_length=3)] = SecretStr("")
        service_token: Annotated[SecretStr, Field(max_length=3)] | None = None

    lines = refused(Short, monkeypatch, capsys, DISCO_TASK_TOKEN="hush1", DISCO_SERVICE_TOKEN="hush2")
    assert [line.split()[0] for line in lines] == ["DISCO_TASK_TOKEN", "DISCO_SERVICE_TOKEN"]
    assert "hush" not in "".join(lines)


def test_every_problem_has_its_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = refused(
        Example, monkeypatch, capsys, DISCO_GATEWAY_PROT="1", DISCO_GATEWAY_PORT="x", DISCO_AGGREGATORS="-1"
    )
    assert [line.split()[0] for line in lines] == ["DISCO_GATEWAY_PROT", "DISCO_GATEWAY_PORT", "DISCO_AGGREGATORS"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("DISCO_GATEWAY_PROT", "Did you mean DISCO_GATEWAY_PORT?"),
        ("disco_redis_urll", "Did you mean DISCO_REDIS_URL?"),
        ("DISCO_XYZZY", "The settings are listed in .env.example."),
    ],
)
def test_an_unknown_name_is_refused_with_the_closest_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, hint: str
) -> None:
    assert refused(Example, monkeypatch, capsys, **{name: "1"}) == [f"{name} is not a setting of Disco. {hint}"]


def test_names_of_other_processes_and_of_tests_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCO_REDIS_URL", "anything")
    monkeypatch.setenv("DISCO_TEST_ANYTHING", "1")
    monkeypatch.setenv("DISCOTHEQUE", "1")
    load(ProcessSettings)


def test_a_settings_class_with_a_name_nobody_knows_is_a_bug() -> None:
    class Forgotten(DiscoSettings):
        brand_new: int = 1

    with pytest.raises(AssertionError, match="DISCO_BRAND_NEW"):
        load(Forgotten)


@pytest.mark.parametrize(
    ("settings_class", "given", "sentence"),
    [
        (ProcessSettings, ("CERT",), "DISCO_TLS_CERT and DISCO_TLS_KEY must be given together."),
        (ProcessSettings, ("KEY",), "DISCO_TLS_CERT and DISCO_TLS_KEY must be given together."),
        (ServerSettings, ("CA",), "A service with DISCO_TLS_CA must be given DISCO_TLS_CERT and DISCO_TLS_KEY, too."),
    ],
)
def test_certificates_that_would_quietly_mean_no_tls_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings_class: type[DiscoSettings],
    given: tuple[str, ...],
    sentence: str,
) -> None:
    variables = {f"DISCO_TLS_{name}": "file.pem" for name in given}
    assert refused(settings_class, monkeypatch, capsys, **variables) == [sentence]


def test_a_process_that_only_calls_may_have_an_authority_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCO_TLS_CA", "ca.pem")
    assert load(ProcessSettings).tls_ca == Path("ca.pem")


@pytest.mark.parametrize("settings_class", [ProcessSettings, ServerSettings])
def test_every_setting_says_what_it_is(settings_class: type[DiscoSettings]) -> None:
    for name, field in settings_class.model_fields.items():
        assert field.description, name
        assert f"DISCO_{name.upper()}" in KNOWN_NAMES
