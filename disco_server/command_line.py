"""The command `disco-server`: options, signals, exit codes.

Every option is a `DISCO_*` variable, too; the option wins. Exit codes: 0 after a stop,
1 where the system cannot start, 2 where a setting is wrong. Knows no process.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from dotenv import dotenv_values
from rich.console import Console

from disco_server.cannot_start import CannotStart
from disco_server.launcher import Launcher
from disco_server.model_commands import commands as model_commands
from disco_server.screen import Screen
from disco_server.settings import LauncherSettings
from disco_server.task_commands import commands as task_commands
from disco_server.until_signal import run_until_signal
from disco_server.verify_commands import commands as verify_commands
from rpc.settings import PREFIX, load

app = typer.Typer(
    help="Disco's server side: many people train one model together, and only weight updates travel.",
    epilog="Every DISCO_* variable is listed in .env.example.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(verify_commands, name="verify")
app.add_typer(task_commands, name="tasks")
app.add_typer(model_commands, name="models")

Port = Annotated[
    int | None,
    typer.Option(help="Port clients connect to; 0: any that is free. [DISCO_GATEWAY_PORT, 8080]", show_default=False),
]
Host = Annotated[
    str | None,
    typer.Option(help="Address clients connect to; 0.0.0.0: all. [DISCO_GATEWAY_HOST, 127.0.0.1]", show_default=False),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Directory of everything that must outlive a restart. [DISCO_DATA_DIR, ./data]", show_default=False
    ),
]
Aggregators = Annotated[
    int | None, typer.Option(help="How many aggregators share the work. [DISCO_AGGREGATORS, 1]", show_default=False)
]
EnvFile = Annotated[
    Path | None,
    typer.Option(
        help="File with DISCO_* variables; those of the environment win.",
        exists=True,
        dir_okay=False,
        show_default=False,
    ),
]


@app.callback(invoke_without_command=True)
def disco_server(
    context: typer.Context,
    port: Port = None,
    host: Host = None,
    data_dir: DataDir = None,
    aggregators: Aggregators = None,
    env_file: EnvFile = None,
) -> None:
    """Disco's server side. Without a command: run."""
    _apply(port, host, data_dir=data_dir, aggregators=aggregators, env_file=env_file)
    if context.invoked_subcommand is None:
        start()


@app.command()
def run(
    port: Port = None,
    host: Host = None,
    data_dir: DataDir = None,
    aggregators: Aggregators = None,
    env_file: EnvFile = None,
) -> None:
    """Starts the whole system on this machine and keeps it running until Ctrl-C."""
    _apply(port, host, data_dir=data_dir, aggregators=aggregators, env_file=env_file)
    start()


def _apply(
    port: int | None,
    host: str | None,
    *,
    data_dir: Path | None,
    aggregators: int | None,
    env_file: Path | None,
) -> None:
    """Puts what was given where settings are read from, so that every value is checked in one place."""
    options = {"GATEWAY_PORT": port, "GATEWAY_HOST": host, "DATA_DIR": data_dir, "AGGREGATORS": aggregators}
    os.environ.update({PREFIX + name: str(value) for name, value in options.items() if value is not None})
    if env_file is not None:
        for name, value in dotenv_values(env_file).items():
            if name.startswith(PREFIX) and value is not None:
                os.environ.setdefault(name, value)


def start() -> None:
    """Runs the system with the settings of the environment, and exits."""
    settings = load(LauncherSettings)
    screen = Screen(Console(), json_lines=settings.log_format == "json")
    launcher = Launcher(settings, environment=dict(os.environ), screen=screen)
    try:
        asyncio.run(run_until_signal(launcher, screen))
    except CannotStart as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from error
