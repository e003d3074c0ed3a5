"""Options, files of settings, signals."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from disco_server import command_line
from disco_server.command_line import app

OPTIONS = ("--port", "--host", "--data-dir", "--aggregators", "--env-file")
VARIABLES = ("DISCO_GATEWAY_PORT", "DISCO_GATEWAY_HOST", "DISCO_DATA_DIR", "DISCO_AGGREGATORS")


@pytest.fixture
def started_with(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The settings in the environment at every start; nothing is started."""
    for name in list(os.environ):
        if name.startswith("DISCO_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    starts: list[dict[str, str]] = []

    def start() -> None:
        starts.append({name: value for name, value in os.environ.items() if name.startswith("DISCO_")})

    monkeypatch.setattr(command_line, "start", start)
    return starts


@pytest.mark.parametrize("command", [[], ["run"]])
def test_help_names_every_option_and_its_variable(command: list[str]) -> None:
    output = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"}).output
    assert [word for word in OPTIONS + VARIABLES if word not in output] == []


@pytest.mark.parametrize("command", [[], ["run"]])
def test_options_become_variables_with_and_without_the_word_run(
    command: list[str], started_with: list[dict[str, str]]
) -> None:
    options = ["--port", "9000", "--host", "0.0.0.0", "--data-dir", "/tmp/d", "--aggregators", "2"]
    assert CliRunner().invoke(app, [*command, *options]).exit_code == 0
    assert started_with == [
        {
            "DISCO_GATEWAY_PORT": "9000",
            "DISCO_GATEWAY_HOST": "0.0.0.0",
            "DISCO_DATA_DIR": "/tmp/d",
            "DISCO_AGGREGATORS": "2",
        }
    ]


def test_options_win_over_the_environment_and_that_over_the_file(
    started_with: list[dict[str, str]], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(
        "DISCO_GATEWAY_PORT=1\nDISCO_AGGREGATORS=1  # how many\nDISCO_LOG_LEVEL=debug\nDISCO_TASK_TOKEN=\nOTHER=x\n"
    )
    os.environ.update(DISCO_GATEWAY_PORT="2", DISCO_AGGREGATORS="2")
    assert CliRunner().invoke(app, ["--env-file", str(tmp_path / ".env"), "--port", "3"]).exit_code == 0
    assert started_with == [
        {"DISCO_GATEWAY_PORT": "3", "DISCO_AGGREGATORS": "2", "DISCO_LOG_LEVEL": "debug", "DISCO_TASK_TOKEN": ""}
    ]
    assert "OTHER" not in os.environ


def test_file_of_settings_that_is_not_there_is_refused(started_with: list[dict[str, str]], tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["--env-file", str(tmp_path / "none")]).exit_code == 2
    assert started_with == []
