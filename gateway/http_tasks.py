"""Tasks and their models over HTTP, in the words of whichever generation asks.

    GET  /tasks                      the list
    POST /tasks                      creates a task; lenient about what the generations send
    POST /tasks/{task}/fork          creates a task from a version of this one
    GET  /tasks/{task}/model.json    the newest model
    GET  /tasks/{task}/weights.bin   its weights: little-endian float32

The paths are those behind the edge (`gateway.http_edge`): without prefix and
trailing slash, and with `/tfjs/…` as `/tasks/…` in the dialect `tfjs`.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import structlog
from disco.task.v1.task_service_pb2 import ForkTaskRequest
from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from gateway.descriptions import JSON, OCTETS, TaskPath, answers
from gateway.dialects.dialect import Rendering
from gateway.dialects.negotiation import GUESSED
from gateway.dialects.registry import RENDERINGS
from gateway.dialects.renderings import SUPERSET
from gateway.http_bodies import Bodies, ServedBody
from gateway.models import Models
from gateway.problems import problem
from gateway.settings import GatewaySettings
from gateway.task_directory import TaskDirectory
from gateway.task_permission import TaskPermission
from gateway.task_sources.creating import CREATE_WITHIN_S, create_task
from gateway.task_sources.fetching import Fetcher
from gateway.task_sources.fork_request import FORK, MAX_FORK_BYTES, read_fork
from gateway.task_sources.offers import Offers
from gateway.uploads import parse_json, read_body
from learning.ids import task_id as valid_task_id
from learning.refusals import DiscoError, InvalidModel
from learning.task import Task
from rpc.channel import retrying

if TYPE_CHECKING:
    from disco.task.v1.task_service_pb2_grpc import TaskServiceAsyncStub

VARY = "Accept, User-Agent, Origin, X-Disco-Protocol"
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
                        '{"type": "Buffer", "data": […]}, as an object with indices for keys, or in base64. '
                        "Without it, the model is fetched from the task's modelURL."
                    },
                },
            }
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["task"],
                "properties": {
                    "task": {"type": "string", "description": "The task: a JSON document."},
                    "model": {
                        "type": "string",
                        "format": "binary",
                        "description": "model.json, a file of Keras, or a zip archive.",
                    },
                    "weights": {
                        "type": "array",
                        "items": {"type": "string", "format": "binary"},
                        "description": "The shards, each with the name that model.json has for it. Without a manifest, "
                        "the server begins with initial weights.",
                    },
                },
            }
        },
    },
}
_log = structlog.stdlib.get_logger("gateway")


class TaskRoutes:
    """The routes and what they need."""

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        permission: TaskPermission,
        task_service: TaskServiceAsyncStub,
        directory: TaskDirectory,
        models: Models,
        bodies: Bodies,
    ) -> None:
        self._permission = permission
        self._task_service = task_service
        self._directory = directory
        self._models = models
        self._bodies = bodies
        self._offers = Offers(Fetcher(settings.networks_to_fetch_from), limit_bytes=settings.max_message_bytes)

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
            responses=answers(["text/plain; charset=utf-8"], 403, 408, 409, 413, 429, 501, 507),
            openapi_extra={"requestBody": CREATION},
        )
        router.add_api_route(
            "/tasks/{task_id}/fork",
            self.fork_task,
            methods=["POST"],
            summary="Creates a task from a version of this one",
            response_class=Response,
            responses=answers([JSON], 403, 408, 409, 413, 429, 501, 507),
            openapi_extra={"requestBody": FORK},
        )
        router.add_api_route("/tasks/{task_id}/fork", _only_post, methods=["GET"], include_in_schema=False)
        router.add_api_route(
            "/tasks/{task_id}/{file}",
            self.read_file,
            methods=["GET"],
            summary="The newest model: model.json, weights.bin",
            response_class=Response,
            responses=answers([JSON, OCTETS], 206, 406, 416),
        )
        return router

    async def fork_task(self, request: Request, task_id: TaskPath) -> Response:
        """Creates a task that begins with a version of this one (the newest, where none is said)."""
        self._permission.check(request)
        wanted = read_fork(parse_json(await read_body(request, limit=MAX_FORK_BYTES)))
        message = ForkTaskRequest(
            source_task_id=valid_task_id(task_id),
            source_version=wanted.version,
            task_id=valid_task_id(wanted.id),
            title=wanted.title,
            request_id=uuid.uuid4().hex,
        )
        made = await retrying(lambda: self._task_service.ForkTask(message), seconds=CREATE_WITHIN_S)
        self._directory.forget_list()
        _log.info("task.forked", task_id=wanted.id, source=task_id, version=made.source_version)
        return JSONResponse(
            {"id": wanted.id, "source_version": made.source_version, "weights_sha256": made.weights_sha256.hex()}
        )

    async def list_tasks(self, request: Request) -> Response:
        """All tasks, as the generation that asks reads them."""
        rendering, words = _of_list(request)
        rendered = []
        for task in await self._directory.tasks():
            try:
                rendered.append(rendering.render_task(_in_words(task, words)))
            except DiscoError as error:
                # One task that this generation cannot read costs itself only: clients reject the whole list for it.
                _log.debug("task.unrenderable", task_id=task.task_id, dialect=rendering.name, problem=str(error))
        body = msgspec.json.encode(rendered)
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        served = ServedBody("application/json", body, tag)
        return await self._bodies.answer(request, served, headers={"Vary": _vary(request)})

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
        return await self._bodies.answer(request, served, headers={"Vary": _vary(request)})

    async def create_task(self, request: Request) -> Response:
        """Creates a task: from JSON in any spelling a Disco client has, or from the parts of a form."""
        self._permission.check(request)
        async with self._offers.received(request, dialect=_spoken(request)) as offer:
            await create_task(self._task_service, offer)
        self._directory.forget_list()
        _log.info("task.created", task_id=offer.task.task_id)
        return PlainTextResponse("Successful task upload")


async def _only_post() -> Response:
    """Else it would be taken for the name of a file."""
    detail = "A task is forked with POST. The routes are listed at /docs."
    answer = problem(HTTPStatus.METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", detail)
    answer.headers["Allow"] = "OPTIONS, POST"
    return answer


def _rendering(request: Request) -> Rendering:
    return RENDERINGS[request.state.negotiated.dialect]


def _of_list(request: Request) -> tuple[Rendering, str]:
    """How the list is written, and in whose words where its tasks are not pinned.

    A client rejects the whole list for one document that its validator does not take, and an address is a weak sign:
    where it alone tells, the document is the one that all validators take, in that generation's words.
    """
    negotiated = request.state.negotiated
    return (SUPERSET, negotiated.dialect) if negotiated.rule == "memory" else (_rendering(request), "")


def _in_words(task: Task, words: str) -> Task:
    return replace(task, pinned_dialect=words) if words and not task.pinned_dialect else task


def _vary(request: Request) -> str:
    """What an answer depends on; an address has no name there (RFC 9110, 12.5.5)."""
    return "*" if request.state.negotiated.rule == "memory" else VARY


def _spoken(request: Request) -> str:
    """The dialect of an upload, where something certain tells it."""
    negotiated = request.state.negotiated
    return str(negotiated.dialect) if negotiated.rule not in GUESSED else ""
