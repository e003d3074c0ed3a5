"""Tasks and their models over HTTP, in the words of whichever generation asks.

    GET  /tasks                      the list
    POST /tasks                      creates a task; lenient about what the generations send
    GET  /tasks/{task}/model.json    the newest model
    GET  /tasks/{task}/weights.bin   its weights: little-endian float32

The paths are those behind the edge (`gateway.http_edge`): without prefix and
trailing slash, and with `/tfjs/…` as `/tasks/…` in the dialect `tfjs`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import uuid
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import structlog
from disco.task.v1.task_pb2 import Model
from disco.task.v1.task_service_pb2 import CreateTaskRequest
from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import PlainTextResponse

from gateway.descriptions import JSON, OCTETS, TaskPath, answers
from gateway.dialects.dialect import Rendering
from gateway.dialects.model_bodies import training_config_of
from gateway.dialects.model_uploads import PushedModel, parse_pushed_model
from gateway.dialects.registry import RENDERINGS
from gateway.dialects.task_uploads import parse_task
from gateway.http_bodies import Bodies, ServedBody
from gateway.models import Models
from gateway.own_machine import is_from_here
from gateway.problems import problem
from gateway.settings import GatewaySettings
from gateway.task_directory import TaskDirectory
from gateway.uploads import parse_json, read_body
from learning.ids import task_id as valid_task_id
from learning.refusals import DiscoError, InvalidModel, InvalidTask, MalformedMessage, TaskCreationDenied
from learning.task import Task
from rpc.channel import retrying
from rpc.chunks import chunks_of
from rpc.task_messages import task_to_proto

if TYPE_CHECKING:
    from disco.task.v1.task_service_pb2_grpc import TaskServiceAsyncStub

CREATE_WITHIN_S = 60.0
VARY = "Accept, User-Agent, X-Disco-Protocol"
_BEARER = "Bearer "
FilePath = Annotated[str, Path(description="Which file.", json_schema_extra={"enum": ["model.json", "weights.bin"]})]
CREATION: dict[str, Any] = {
    "required": True,
    "description": "What a Disco client of any generation sends, whatever the content type says.",
    "content": {
        JSON: {
            "schema": {
                "type": "object",
                "required": ["task", "model"],
                "properties": {
                    "task": {"type": "object", "description": "The task (`newTask` is read as well)."},
                    "model": {
                        "description": "The msgpack of the TF.js artifacts as an array of bytes, as "
                        '{"type": "Buffer", "data": […]}, as an object with indices for keys, or in base64.'
                    },
                },
            }
        }
    },
}
_NOT_FROM_HERE = (
    "only programs and pages of the gateway's own machine may, and this request came from elsewhere, through a proxy "
    "or from a page of another site. Set DISCO_TASK_CREATION=token and DISCO_TASK_TOKEN, and send the token"
)

_log = structlog.stdlib.get_logger("gateway")


class TaskRoutes:
    """The routes and what they need."""

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        task_service: TaskServiceAsyncStub,
        directory: TaskDirectory,
        models: Models,
        bodies: Bodies,
    ) -> None:
        self._creation = settings.effective_task_creation
        self._token = settings.task_token.get_secret_value()
        self._limit = settings.max_message_bytes
        self._task_service = task_service
        self._directory = directory
        self._models = models
        self._bodies = bodies
        # An upload takes many times its size while it is parsed: one at a time keeps that bounded.
        self._parsing = asyncio.Semaphore(1)

    def router(self) -> APIRouter:
        router = APIRouter(tags=["tasks"])
        router.add_api_route(
            "/tasks",
            self.list_tasks,
            methods=["GET"],
            summary="Lists the tasks",
            response_class=Response,
            responses=answers([JSON], 206, 416),
        )
        router.add_api_route(
            "/tasks",
            self.create_task,
            methods=["POST"],
            summary="Creates a task",
            response_class=Response,
            responses=answers(["text/plain; charset=utf-8"], 403, 408, 409, 413),
            openapi_extra={"requestBody": CREATION},
        )
        router.add_api_route(
            "/tasks/{task_id}/{file}",
            self.read_file,
            methods=["GET"],
            summary="The newest model: model.json, weights.bin",
            response_class=Response,
            responses=answers([JSON, OCTETS], 206, 406, 416),
        )
        return router

    async def list_tasks(self, request: Request) -> Response:
        """All tasks, as the generation that asks reads them."""
        rendering = _rendering(request)
        rendered = []
        for task in await self._directory.tasks():
            try:
                rendered.append(rendering.render_task(task))
            except DiscoError as error:
                # One task that this generation cannot read costs itself only: clients reject the whole list for it.
                _log.debug("task.unrenderable", task_id=task.task_id, dialect=rendering.name, problem=str(error))
        body = msgspec.json.encode(rendered)
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        return await self._bodies.answer(request, ServedBody("application/json", body, tag), headers={"Vary": VARY})

    async def read_file(self, request: Request, task_id: TaskPath, file: FilePath) -> Response:
        """The newest model of a task in the words of the generation that asks, or its weights alone."""
        valid_task_id(task_id)
        match file:
            case "model.json":
                try:
                    served = await self._models.model(task_id, _rendering(request))
                except InvalidModel as error:
                    # The request is as it should be, and so is the model: only none that this generation could run.
                    return problem(HTTPStatus.NOT_ACCEPTABLE, "NOT_ACCEPTABLE", str(error), variables=error.variables)
            case "weights.bin":
                served = await self._models.shard(task_id)
            case _:
                await self._directory.entry(task_id)
                detail = f"Task {task_id} has the files model.json and weights.bin, and no other."
                return problem(HTTPStatus.NOT_FOUND, "FILE_NOT_FOUND", detail)
        return await self._bodies.answer(request, served, headers={"Vary": VARY})

    async def create_task(self, request: Request) -> Response:
        """Creates a task from `{"task" or "newTask": …, "model": …}`, in any spelling a Disco client has."""
        self._authorize(request)
        body = await read_body(request, limit=self._limit)
        async with self._parsing:
            task, model = await asyncio.to_thread(_parse_upload, body, _spoken(request))
            del body
        await self._create(task, model)
        self._directory.forget_list()
        _log.info("task.created", task_id=task.task_id)
        return PlainTextResponse("Successful task upload")

    def _authorize(self, request: Request) -> None:
        if self._creation == "open":
            return
        if self._creation == "off":
            raise TaskCreationDenied(problem="it is turned off (DISCO_TASK_CREATION)")
        if self._creation == "local" and is_from_here(request.client and request.client.host, request.headers):
            return
        if not self._token:
            raise TaskCreationDenied(problem=_NOT_FROM_HERE)
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), (_BEARER + self._token).encode()):
            raise TaskCreationDenied(problem="send the token as `Authorization: Bearer …`")

    async def _create(self, task: Task, model: PushedModel) -> None:
        header = CreateTaskRequest.Header(
            task=task_to_proto(task),
            model=_model_for(task, model),
            weights_size=len(model.weights),
            request_id=uuid.uuid4().hex,
        )

        def parts() -> Iterator[CreateTaskRequest]:
            yield CreateTaskRequest(header=header)
            for chunk in chunks_of(model.weights):
                yield CreateTaskRequest(weights_chunk=chunk)

        await retrying(lambda: self._task_service.CreateTask(parts()), seconds=CREATE_WITHIN_S)


def _rendering(request: Request) -> Rendering:
    return RENDERINGS[request.state.negotiated.dialect]


def _spoken(request: Request) -> str:
    """The dialect of an upload, where something certain tells it."""
    negotiated = request.state.negotiated
    return str(negotiated.dialect) if negotiated.rule in ("prefix", "hint", "headers") else ""


def _parse_upload(body: bytearray, dialect: str) -> tuple[Task, PushedModel]:
    document = parse_json(body)
    if not isinstance(document, dict):
        raise MalformedMessage(problem='the body is no object with "task" and "model"')
    described = document.get("task", document.get("newTask"))
    if described is None:
        raise InvalidTask(field="task", problem="is missing")
    if document.get("model") is None:
        raise InvalidModel(problem="it is missing")
    model = parse_pushed_model(document["model"])
    backend = "gpt" if model.kind == Model.KIND_GPT else "tfjs"
    task = parse_task(
        described, dialect_hint=dialect, tensor_backend=backend, training_config_json=model.training_config_json
    )
    return task, model


def _model_for(task: Task, model: PushedModel) -> Model:
    if model.kind == Model.KIND_TFJS and not model.training_config_json:
        model = replace(model, training_config_json=training_config_of(task))
    return model.without_weights()
