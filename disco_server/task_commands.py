"""The commands below `disco-server tasks`: all but `validate` talk to a running server, over HTTP.

Knows options and output; what is said to the server is `disco_server.server_client`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from disco_server.command_output import EXIT_CODES, UNREACHABLE, Output

if TYPE_CHECKING:
    from rich.console import Console

    from disco_server.server_client import ServerClient

# HTTP and formats of models take a while to import; whoever starts the system need not wait. So each command does it.

commands = typer.Typer(
    help="Lists, shows, adds, checks, exports, removes and forks the tasks of a running server. "
    "Whoever changes something needs the token in DISCO_TASK_TOKEN, if the server has one.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, errors too.")]
Server = Annotated[
    str | None,
    typer.Option(
        help="Address of the server. [http://DISCO_GATEWAY_HOST:DISCO_GATEWAY_PORT]",
        show_default=False,
        metavar="URL",
    ),
]
TaskId = Annotated[str, typer.Argument(help="Id of the task.", metavar="TASK")]
TaskFile = Annotated[
    Path, typer.Argument(help="The task: JSON as any generation of clients writes it.", metavar="TASK.json")
]
Model = Annotated[
    str | None,
    typer.Option(
        help="model.json, a folder, a file of Keras, or a URL that the server fetches.",
        show_default=False,
        metavar="PATH|URL",
    ),
]
Form = Annotated[str, typer.Option(help="tfjs, h5, keras or safetensors.")]
Version = Annotated[int | None, typer.Option(help="Which version. [the newest]", show_default=False)]


@commands.command("list", epilog=EXIT_CODES)
def list_tasks(server: Server = None, as_json: AsJson = False) -> None:
    """Lists the tasks."""
    output = Output(as_json=as_json)
    with reported(output):
        tasks = client_of(server).tasks()
        output.tell(tasks, lambda console: _table(console, tasks))


@commands.command(epilog=EXIT_CODES)
def show(task: TaskId, server: Server = None, as_json: AsJson = False) -> None:
    """Shows one task, and what its round waits for."""
    output = Output(as_json=as_json)
    with reported(output):
        client = client_of(server)
        found, state = client.task(task), client.round(task)
        output.tell({"task": found, "round": state}, lambda console: _details(console, found, state))


@commands.command(epilog=EXIT_CODES)
def add(task_file: TaskFile, model: Model = None, server: Server = None, as_json: AsJson = False) -> None:
    """Creates a task from a file, and its model from files, a file of Keras, or a URL."""
    from disco_server.model_files_here import upload_of

    output = Output(as_json=as_json)
    with reported(output):
        document = read_document(task_file)
        if model is not None and model.startswith(("http://", "https://")):
            training = document.get("trainingInformation")
            document["trainingInformation"] = {**(training if isinstance(training, dict) else {}), "modelURL": model}
            model = None
        with output.progress("Sending the model") as progress:
            if model is None:
                client_of(server).create(document, [], progress)
            else:
                with upload_of(Path(model)) as files:
                    client_of(server).create(document, files, progress)
        task_id = document.get("id") or document.get("taskID") or ""
        output.say(f"Created task {task_id}.", task_id=task_id)


@commands.command(epilog=EXIT_CODES)
def validate(task_file: TaskFile, as_json: AsJson = False) -> None:
    """Says whether this server would take a task file, and which clients would reject it as it stands, and why.

    Asks nobody. The server fills gaps and serves every task in the words of each
    generation, so it takes files that clients would not. 0: the server would take it.
    """
    from disco_server.task_validation import validate_document

    output = Output(as_json=as_json)
    with reported(output):
        result = validate_document(read_document(task_file))
        output.tell(result.document(), result.print_to)
        if result.server:
            raise typer.Exit(1)


@commands.command(epilog=EXIT_CODES)
def export(
    task: TaskId,
    folder: Annotated[Path, typer.Argument(help="Where task.json and the model come to lie.", metavar="FOLDER")],
    form: Form = "tfjs",
    version: Version = None,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Writes a task and its model to a folder, from which `tasks add` makes them again."""
    from disco_server.model_export import export_model

    output = Output(as_json=as_json)
    with reported(output):
        client = client_of(server)
        found = client.task(task)
        with output.progress(f"Fetching {task}") as progress:
            written = export_model(client, task, folder, form=form, version=version, progress=progress)
        (folder / "task.json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        files = ["task.json", *written]
        output.say(f"Wrote {', '.join(files)} to {folder}.", task_id=task, folder=str(folder), files=files)


@commands.command(epilog=EXIT_CODES)
def remove(
    task: TaskId,
    yes: Annotated[bool, typer.Option("--yes", help="Does not ask whether you are sure.")] = False,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Deletes a task with everything that was learned."""
    output = Output(as_json=as_json)
    with reported(output):
        if not yes and not typer.confirm(f"Delete task {task} and every version of its model?", err=True):
            raise output.fail("Nothing was deleted.")
        client_of(server).remove(task)
        output.say(f"Deleted task {task}.", task_id=task)


@commands.command(epilog=EXIT_CODES)
def fork(
    task: TaskId,
    new_task: Annotated[str, typer.Argument(help="Id of the new task.", metavar="NEW")],
    title: Annotated[str, typer.Option(help="What the new task is called. [as the other one]")] = "",
    version: Version = None,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Creates a task that begins with a version of another one."""
    output = Output(as_json=as_json)
    with reported(output):
        made = client_of(server).fork(task, new_task, title=title, version=version)
        sentence = f"Created task {new_task} from version {made['source_version']} of {task}."
        output.say(sentence, task_id=new_task, source_version=made["source_version"])


def client_of(server: str | None) -> ServerClient:
    """The server that is asked; the token comes from the environment, and so into no history."""
    from disco_server.server_client import ServerClient, default_address

    return ServerClient(server or default_address(), token=os.environ.get("DISCO_TASK_TOKEN", ""))


@contextmanager
def reported(output: Output) -> Iterator[None]:
    """Every failure becomes one sentence and an exit code."""
    from disco_server.server_client import Refused, Unreachable
    from learning.refusals import DiscoError, InvalidTask

    try:
        yield
    except Refused as refused:
        raise output.fail(str(refused), refused.errors) from None
    except Unreachable as error:
        raise output.fail(str(error), code=UNREACHABLE) from None
    except InvalidTask as error:
        raise output.fail(str(error), list(error.problems)) from None
    except DiscoError as error:
        raise output.fail(str(error)) from None
    except OSError as error:
        raise output.fail(f"{error.filename or 'A file'}: {error.strerror or error}.") from None


def read_document(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises InvalidTask, OSError."""
    from gateway.uploads import parse_json
    from learning.refusals import InvalidTask, MalformedMessage

    try:
        document = parse_json(path.read_bytes())
    except MalformedMessage as refusal:
        raise InvalidTask(field=str(path), problem=refusal.variables["problem"]) from None
    if not isinstance(document, dict):
        raise InvalidTask(field=str(path), problem="is no JSON object")
    return document


def _table(console: Console, tasks: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("Task", "Title", "Scheme", "Data")
    for task in tasks:
        training = task.get("trainingInformation", {})
        title = task.get("displayInformation", {}).get("taskTitle", "")
        cells = (task.get("id") or task.get("taskID"), title, training.get("scheme"), training.get("dataType"))
        table.add_row(*(Text(str(cell or "")) for cell in cells))
    console.print(table)


def _details(console: Console, task: dict[str, Any], state: dict[str, Any]) -> None:
    console.print_json(json.dumps(task, ensure_ascii=False))
    console.print(f"Round {state['number']}: {state['waiting_sentence']}", markup=False)
