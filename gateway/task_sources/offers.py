"""A task and its model as somebody offers them over HTTP, ready to be handed to the task service.

    application/json, or any other type     {"task": …, "model": …} in any spelling that a client has
    multipart/form-data                     task (JSON), model, shards; the model is model.json, or a file of Keras, or
                                            a zip archive of a SavedModel, or bytes as a client encodes them
    no model, but a modelURL in the task    the model is fetched from there

Files lie in a directory that goes when the block ends; of their weights one chunk at
a time is in memory. Knows no route and does not create anything.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from disco.task.v1.task_pb2 import Model
from starlette.requests import Request

from gateway.dialects.model_bodies import training_config_of
from gateway.dialects.model_uploads import PushedModel, parse_model_body, parse_pushed_model
from gateway.dialects.task_uploads import parse_task
from gateway.dialects.upload_shapes import uploading_dialect
from gateway.task_sources.fetched_models import fetch_model
from gateway.task_sources.fetching import Fetcher
from gateway.task_sources.given_digest import GivenDigest, given_digest
from gateway.task_sources.model_files import MAX_MODEL_FILE_BYTES, MODEL_FILE, ModelFiles
from gateway.task_sources.multipart_upload import Part, boundary_of, receive_parts
from gateway.task_sources.written_files import not_written
from gateway.uploads import body_chunks, parse_json, read_body
from learning.refusals import InvalidId, InvalidModel, InvalidTask, MalformedMessage
from learning.task import Task
from rpc.chunks import chunks_of

_CONVERTED: Final = (".h5", ".hdf5", ".keras", ".safetensors", ".zip")
"""The task service converts files that end so."""
_NOT_CONVERTED: Final = (".onnx", ".pt", ".pth", ".pb", ".pkl")
_FILE_CHUNK_BYTES: Final = 1 << 18
_LISTED_PARTS: Final = 20
"""Parts that are too many are named up to here."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What the task service is told."""

    task: Task
    model: Model
    weights_size: int
    chunks: Callable[[], Iterator[bytes]]
    """The weights, from the beginning at every call; the bytes of the file where there is one to convert."""
    model_file: str = ""
    """What the file to convert is called."""
    weights_digest: GivenDigest | None = None
    """What the weights in that file must hash to; those of other models have been checked here."""


class Offers:
    """`limit_bytes` bounds a body, and the weights of a model."""

    def __init__(self, fetcher: Fetcher, *, limit_bytes: int) -> None:
        self._fetcher = fetcher
        self._limit = limit_bytes
        # An upload in JSON takes many times its size while it is parsed: one at a time keeps that bounded.
        self._parsing = asyncio.Semaphore(1)

    @asynccontextmanager
    async def received(self, request: Request, *, dialect: str) -> AsyncIterator[Offer]:
        """Raises InvalidTask, InvalidModel, InvalidId, MalformedMessage, TooLarge, StreamStalled, DigestMismatch."""
        boundary = boundary_of(request.headers.get("content-type", ""))
        with tempfile.TemporaryDirectory(prefix="disco-offer-") as directory:
            if boundary is None:
                yield await self._from_json(request, dialect, Path(directory))
                return
            try:
                chunks = body_chunks(request, limit=self._limit)
                parts = await receive_parts(chunks, boundary, Path(directory))
            except OSError as error:
                raise not_written(error) from error
            yield await self._from_parts(parts, dialect, Path(directory))

    async def from_document(self, document: object, directory: Path, *, dialect: str = "") -> Offer:
        """The offer of a task whose model is at its modelURL; the files of the model come into `directory`."""
        url = model_url(document)
        if url is None:
            return _offer(document, InvalidModel(problem="it is missing"), dialect)
        described_alone(document, dialect)  # before anything is fetched for it
        target = directory / "fetched"
        target.mkdir()
        digest = given_digest(document)
        files = await fetch_model(self._fetcher, url, target, limit_bytes=self._limit, digest=digest)
        return _offer_of_files(document, files, dialect)

    async def from_files(self, document: object, model: Path, *, dialect: str = "") -> Offer:
        """The offer of a task whose `model.json` lies here, with its shards below the same folder."""

        def read() -> Offer:
            try:
                files = ModelFiles(model.parent, file=model.name, limit_bytes=self._limit)
                files.check(given_digest(document))
            except InvalidModel as refusal:
                return _offer(document, refusal, dialect)
            return _offer_of_files(document, files, dialect)

        return await asyncio.to_thread(read)

    async def _from_json(self, request: Request, dialect: str, directory: Path) -> Offer:
        body = await read_body(request, limit=self._limit)
        async with self._parsing:
            described, model, pin = await asyncio.to_thread(_parse_body, body)
            del body
            if model is not None or model_url(described) is None:
                model = model or InvalidModel(problem="it is missing")
                return await asyncio.to_thread(_offer_of_pushed, described, model, dialect, pin=pin)
        return await self.from_document(described, directory, dialect=dialect)

    async def _from_parts(self, parts: list[Part], dialect: str, directory: Path) -> Offer:
        tasks = [part for part in parts if part.field in ("task", "newTask")]
        if len(tasks) != 1:
            raise InvalidTask(field="task", problem="is there twice" if tasks else "is missing")
        document = await asyncio.to_thread(_task_document, tasks[0])
        models = [part for part in parts if part not in tasks]
        if not models and model_url(document) is not None:
            return await self.from_document(document, directory, dialect=dialect)
        return await asyncio.to_thread(self._of_parts, document, models, dialect, directory)

    def _of_parts(self, document: object, parts: list[Part], dialect: str, directory: Path) -> Offer:
        described = [part for part in parts if part.field in ("model", MODEL_FILE) or part.file_name == MODEL_FILE]
        if len(described) != 1:
            problem = "it is there twice" if described else "it is missing"
            return _offer(document, InvalidModel(problem=problem), dialect)
        (model,) = described
        shards = [part for part in parts if part is not model]
        try:
            name = model.file_name.lower()
            if name.endswith(_CONVERTED):
                _refuse_unlisted(document, shards, dialect)
                return _offer_of_foreign_file(document, model, dialect)
            if name.endswith(_NOT_CONVERTED):
                problem = (
                    f"{model.file_name[-64:]!r} cannot be read; send model.json, or a file of {', '.join(_CONVERTED)}"
                )
                raise InvalidModel(problem=problem)
            if not _is_json(model.path):
                _refuse_unlisted(document, shards, dialect)
                return _offer_of_pushed(document, parse_model_body(model.path.read_bytes()), dialect)
            files = ModelFiles(directory, file=model.path.name, limit_bytes=self._limit)
            places = _places(files.shards, shards)
            used = set(places.values())
            _refuse_unlisted(document, [part for part in shards if part.path not in used], dialect)
            files.check(given_digest(document), places=places)
        except InvalidModel as refusal:
            return _offer(document, refusal, dialect)
        return _offer_of_files(document, files, dialect)


def model_url(document: object) -> str | None:
    """Where a task document says that its model is."""
    training = document.get("trainingInformation") if isinstance(document, Mapping) else None
    url = training.get("modelURL") if isinstance(training, Mapping) else None
    return url if isinstance(url, str) and url else None


def described_alone(document: object, dialect: str) -> Task:
    """The task without a look at its model. Raises InvalidTask, InvalidId."""
    return parse_task(document, dialect_hint=dialect)


def _parse_body(body: bytearray) -> tuple[object, PushedModel | InvalidModel | None, str]:
    """The task's document, its model if one came, and the dialect of whoever writes bodies so."""
    document = parse_json(body)
    if not isinstance(document, dict):
        raise MalformedMessage(problem='the body is no object with "task" and "model"')
    described = document.get("task", document.get("newTask"))
    if described is None:
        raise InvalidTask(field="task", problem="is missing")
    if document.get("model") is None:
        return described, None, ""
    pin = uploading_dialect(document["model"], document.get("weights"))
    try:
        return described, parse_pushed_model(document["model"]), pin
    except InvalidModel as refusal:
        return described, refusal, pin


def _task_document(part: Part) -> object:
    if part.path.stat().st_size > MAX_MODEL_FILE_BYTES:
        raise InvalidTask(field="task", problem=f"is larger than {MAX_MODEL_FILE_BYTES} bytes")
    return parse_json(part.path.read_bytes())


def _is_json(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip()[:1] in (b"{", b"[", b"")


def _places(shards: list[str], parts: list[Part]) -> dict[str, Path]:
    """Where each shard of a manifest is: by the name of a file or field, else by what is behind its last slash."""
    by_name = {name.removeprefix("./"): part.path for part in parts for name in (part.field, part.file_name) if name}
    places = {}
    for shard in shards:
        found = by_name.get(shard) or by_name.get(shard.rpartition("/")[2])
        if found is not None:
            places[shard] = found
    if len(set(places.values())) != len(places):
        raise InvalidModel(problem="two of its shards have the same name but for their folders")
    return places


def _refuse_unlisted(document: object, parts: list[Part], dialect: str) -> None:
    """Whoever sends a shard means it to be used. Raises InvalidTask, with the names of these parts as paths."""
    if not parts:
        return
    problems = tuple(
        (part.field[:64], f"{(part.file_name or part.field)[-64:]!r} is no shard that the model lists, or came twice")
        for part in parts[:_LISTED_PARTS]
    )
    try:
        described_alone(document, dialect)
    except InvalidTask as refusal:
        problems = (*refusal.problems, *problems)
    except InvalidId as refusal:
        problems = (("id", str(refusal)), *problems)
    raise InvalidTask(problems=problems)


def _offer_of_pushed(document: object, model: PushedModel | InvalidModel, dialect: str, *, pin: str = "") -> Offer:
    """Of a model in bytes as a client encodes it. Raises DigestMismatch, too."""
    offer = _offer(document, model, dialect, pin=pin)
    digest = given_digest(document)
    if digest is not None:
        digest.check(offer.chunks())
    return offer


def _offer_of_foreign_file(document: object, part: Part, dialect: str) -> Offer:
    task = described_alone(document, dialect)
    digest = given_digest(document)

    def chunks() -> Iterator[bytes]:
        with part.path.open("rb") as file:
            while chunk := file.read(_FILE_CHUNK_BYTES):
                yield chunk

    size, name = part.path.stat().st_size, part.file_name[-64:]
    return Offer(task, Model(), size, chunks, model_file=name, weights_digest=digest)


def _offer_of_files(document: object, files: ModelFiles, dialect: str) -> Offer:
    offer = _offer(document, files.description, dialect)
    return replace(offer, weights_size=files.weights_size, chunks=files.chunks)


def _offer(document: object, model: PushedModel | InvalidModel, dialect: str, *, pin: str = "") -> Offer:
    """Raises what is wrong with the task and with the model, both at once."""
    if isinstance(model, InvalidModel):
        try:
            described_alone(document, dialect)
        except InvalidTask as refusal:
            raise InvalidTask(problems=(*refusal.problems, ("model", model.variables["problem"]))) from None
        except InvalidId as refusal:
            raise InvalidTask(problems=(("id", str(refusal)), ("model", model.variables["problem"]))) from None
        raise model
    backend = "gpt" if model.kind == Model.KIND_GPT else "tfjs"
    task = parse_task(
        document,
        dialect_hint=dialect,
        tensor_backend=backend,
        training_config_json=model.training_config_json,
        pinned_dialect=pin,
    )
    if model.kind == Model.KIND_TFJS and not model.training_config_json:
        model = replace(model, training_config_json=training_config_of(task))
    weights = model.weights
    return Offer(task, model.without_weights(), len(weights), lambda: chunks_of(weights))
