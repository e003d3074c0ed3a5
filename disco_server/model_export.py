"""A model of a running server, written to this machine in the form that is asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

from blobstore.records import Model, WeightSpec
from disco_server.model_files_here import ENDINGS, WEIGHTS_FILE, model_of_document, write_model
from disco_server.server_client import Progress, ServerClient
from gateway.dialects.model_uploads import parse_model_body
from gateway.task_sources.model_files import MODEL_FILE
from learning.refusals import DigestMismatch, InvalidModel
from services.task_service.gpt import weights_of_gpt


def export_model(
    client: ServerClient, task_id: str, folder: Path, *, form: str, version: int | None, progress: Progress
) -> list[str]:
    """Writes the model into `folder`, which is made; returns the names of its files.

    Raises Refused, InvalidModel, DigestMismatch; nothing is written then.
    """
    model = _model(client, task_id)
    if model.kind != "tfjs" and form != "safetensors":
        raise InvalidModel(problem="it has no layers: a GPT is written as safetensors only (--form safetensors)")
    number, digest = client.version(task_id, version)
    with TemporaryDirectory(prefix="disco-") as scratch:
        weights = Path(scratch) / WEIGHTS_FILE
        client.save_weights(task_id, number, weights, progress)
        with weights.open("rb") as file:
            received = hashlib.file_digest(file, "sha256").hexdigest()
        if received != digest:
            raise DigestMismatch(announced=digest, received=received)
        labels = {"task_id": task_id, "version": str(number), "digest": digest}
        name = "model" + ENDINGS.get(form, "")
        files, target = ([MODEL_FILE, WEIGHTS_FILE], folder) if form == "tfjs" else ([name], folder / name)
        folder.mkdir(parents=True, exist_ok=True)
        write_model(model, weights, form=form, target=target, labels=labels)
        return files


def _model(client: ServerClient, task_id: str) -> Model:
    if client.description(task_id).get("training", {}).get("tensorBackend") != "gpt":
        return model_of_document(client.model(task_id))
    # Clients are told no names of these tensors: they hang on the configuration alone.
    configuration = parse_model_body(client.model_body(task_id)).topology_json.decode()
    specs = tuple(WeightSpec(weight.name, weight.shape) for weight in weights_of_gpt(configuration))
    return Model(kind="gpt", topology_json=configuration, weight_specs=specs)
