"""A model of a running server, written to this machine in the form that is asked for."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from disco_server.model_files_here import ENDINGS, WEIGHTS_FILE, model_of_document, write_model
from disco_server.server_client import Progress, ServerClient
from gateway.task_sources.model_files import MODEL_FILE


def export_model(
    client: ServerClient, task_id: str, folder: Path, *, form: str, version: int | None, progress: Progress
) -> list[str]:
    """Writes the model into a folder that exists; returns the names of its files. Raises Refused, InvalidModel."""
    model = model_of_document(client.model(task_id))
    with TemporaryDirectory(prefix="disco-") as scratch:
        weights = Path(scratch) / WEIGHTS_FILE
        client.save_weights(task_id, version, weights, progress)
        labels = {"task_id": task_id} | ({} if version is None else {"version": str(version)})
        if form == "tfjs":
            write_model(model, weights, form=form, target=folder, labels=labels)
            return [MODEL_FILE, WEIGHTS_FILE]
        name = "model" + ENDINGS.get(form, "")
        write_model(model, weights, form=form, target=folder / name, labels=labels)
        return [name]
