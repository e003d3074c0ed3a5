"""The commands below `disco-server models`: `convert` and `inspect` ask nobody, `download` asks a server."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from disco_server.command_output import EXIT_CODES, Output
from disco_server.task_commands import AsJson, Form, Server, TaskId, Version, client_of, reported

if TYPE_CHECKING:
    from rich.console import Console

commands = typer.Typer(
    help="Converts, inspects and downloads models. Files of Keras need the extra convert.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
)

Source = Annotated[Path, typer.Argument(help="model.json, .h5, .keras, .safetensors, or a folder.", metavar="SOURCE")]


@commands.command(epilog=EXIT_CODES)
def convert(
    source: Source,
    target: Annotated[Path, typer.Argument(help="A folder for tfjs, else a file.", metavar="TARGET")],
    form: Form = "tfjs",
    as_json: AsJson = False,
) -> None:
    """Writes a model in another form, without running anything that it holds."""
    from disco_server.model_files_here import read_model, write_model

    output = Output(as_json=as_json)
    with reported(output), read_model(source) as found:
        write_model(found.model, found.weights, form=form, target=target, labels={})
        notes = "".join(f" {note}" for note in found.notes)
        output.say(
            f"Wrote {found.source} with {found.model.size} weights to {target}.{notes}",
            source=found.source,
            weights=found.model.size,
            digest=found.digest,
            notes=list(found.notes),
        )


@commands.command(epilog=EXIT_CODES)
def inspect(source: Source, as_json: AsJson = False) -> None:
    """Says what is in a model: format, tensors, number of weights, digest."""
    from disco_server.model_files_here import read_model

    output = Output(as_json=as_json)
    with reported(output), read_model(source) as found:
        tensors = [{"name": spec.name, "shape": list(spec.shape)} for spec in found.model.weight_specs]
        training = json.loads(found.model.training_config_json) if found.model.training_config_json else None
        described = {
            "source": found.source,
            "kind": found.model.kind,
            "weights": found.model.size,
            "digest": found.digest,
            "notes": list(found.notes),
            "training_config": training,
            "tensors": tensors,
        }
        output.tell(described, lambda console: _print(console, described))


@commands.command(epilog=EXIT_CODES)
def download(
    task: TaskId,
    folder: Annotated[Path, typer.Argument(help="Where its files come to lie.", metavar="FOLDER")],
    form: Form = "tfjs",
    version: Version = None,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Downloads a version of a task's model."""
    from disco_server.model_export import export_model

    output = Output(as_json=as_json)
    with reported(output):
        client = client_of(server)
        with output.progress(f"Fetching {task}") as progress:
            files = export_model(client, task, folder, form=form, version=version, progress=progress)
        output.say(f"Wrote {', '.join(files)} to {folder}.", task_id=task, folder=str(folder), files=files)


def _print(console: Console, described: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("Tensor", "Shape", "Weights")
    for tensor in described["tensors"]:
        table.add_row(Text(tensor["name"]), str(tensor["shape"]), str(math.prod(tensor["shape"])))
    console.print(table)
    digest = f" SHA-256 {described['digest']}." if described["digest"] else " It has no weights: they are initialized."
    console.print(f"{described['source']}: {described['weights']} weights.{digest}", markup=False)
    for note in described["notes"]:
        console.print(note, markup=False)
