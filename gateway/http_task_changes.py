"""One task over HTTP, in words of our own: read, changed, deleted. Disco clients have none for that.

    GET    /tasks/{task}   the task, as JSON in the field names of disco.task.v1.Task; its revision is the entity tag
    PUT    /tasks/{task}   replaces it by such a document
    PATCH  /tasks/{task}   merges one into it (RFC 7396): null takes a field away
    DELETE /tasks/{task}   deletes it for good

`If-Match` with the entity tag makes a change only where nobody else made one since. Who may is
the same as for creating tasks (`gateway.task_permission`); what may be changed is the task service's to say.
"""

from __future__ import annotations

import re
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from disco.task.v1.task_pb2 import Task
from disco.task.v1.task_service_pb2 import DeleteTaskRequest, GetTaskRequest, UpdateTaskRequest
from fastapi import APIRouter, Request, Response
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from gateway.descriptions import JSON, TaskPath, answers
from gateway.task_directory import TaskDirectory
from gateway.task_permission import TaskPermission
from gateway.uploads import parse_json, read_body
from learning.ids import task_id as valid_task_id
from learning.refusals import InvalidTask, MalformedMessage, TaskChanged
from rpc.channel import retrying

if TYPE_CHECKING:
    from disco.task.v1.task_service_pb2_grpc import TaskServiceAsyncStub

WITHIN_S = 30.0
MAX_DOCUMENT_BYTES = 1 << 20
MERGE_ATTEMPTS = 5
_TAG = re.compile(r'"(\d{1,19})"')
_WHERE = re.compile(r"Failed to parse (\w+) field: ")
_DOCUMENT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A task, or a part of one, in the field names of disco.task.v1.Task.",
        "content": {JSON: {"schema": {"type": "object"}}},
    }
}
_CHANGES = (403, 408, 409, 412, 413, 429, 507)


class TaskChangeRoutes:
    """The routes and what they need."""

    def __init__(
        self, permission: TaskPermission, *, task_service: TaskServiceAsyncStub, directory: TaskDirectory
    ) -> None:
        self._permission = permission
        self._task_service = task_service
        self._directory = directory

    def router(self) -> APIRouter:
        router = APIRouter(tags=["tasks"])
        routes: list[tuple[str, Any, str, tuple[int, ...], dict[str, Any] | None]] = [
            ("GET", self.read, "One task, with all that the server knows of it", (), None),
            ("PUT", self.replace, "Replaces a task", _CHANGES, _DOCUMENT),
            ("PATCH", self.merge, "Changes some fields of a task", _CHANGES, _DOCUMENT),
            ("DELETE", self.delete, "Deletes a task for good", (403, 412, 429, 507), None),
        ]
        for method, endpoint, summary, statuses, extra in routes:
            described = answers([JSON], *statuses)
            if method == "DELETE":
                described[204] = {"description": "It is deleted"}
                del described[200]
            router.add_api_route(
                "/tasks/{task_id}",
                endpoint,
                methods=[method],
                summary=summary,
                response_class=Response,
                status_code=HTTPStatus.NO_CONTENT if method == "DELETE" else HTTPStatus.OK,
                responses=described,
                openapi_extra=extra,
            )
        return router

    async def read(self, task_id: TaskPath) -> Response:
        """A task as JSON, in the field names of disco.task.v1.Task; its revision is the entity tag."""
        return _answer(await self._task(task_id))

    async def replace(self, request: Request, task_id: TaskPath) -> Response:
        """The whole task as it is to be. What is left out is its default; policy and aggregation stay as they are."""
        document, expected = await self._received(request, task_id)
        return _answer(await self._update(_task_of(document, task_id), expected))

    async def merge(self, request: Request, task_id: TaskPath) -> Response:
        """Some fields of the task, as they are to be; null takes one away."""
        patch, expected = await self._received(request, task_id)
        for attempts_left in reversed(range(MERGE_ATTEMPTS)):
            now = await self._task(task_id)
            wanted = _task_of(_merged(MessageToDict(now), _in_camel_case(patch)), task_id)
            try:
                return _answer(await self._update(wanted, expected or now.revision))
            except TaskChanged:
                if expected or not attempts_left:
                    raise
        raise AssertionError("the last attempt raises")

    async def delete(self, request: Request, task_id: TaskPath) -> Response:
        """Its participants are told that it is gone; its versions, its ledger and its id are gone for good."""
        self._permission.check(request)
        asked = DeleteTaskRequest(
            task_id=valid_task_id(task_id), revision=_expected(request), request_id=uuid.uuid4().hex
        )
        await retrying(lambda: self._task_service.DeleteTask(asked), seconds=WITHIN_S)
        self._directory.forget(task_id)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def _task(self, task_id: str) -> Task:
        asked = GetTaskRequest(task_id=valid_task_id(task_id))
        return (await retrying(lambda: self._task_service.GetTask(asked), seconds=WITHIN_S)).task

    async def _received(self, request: Request, task_id: str) -> tuple[dict[str, Any], int]:
        self._permission.check(request)
        valid_task_id(task_id)
        document = parse_json(await read_body(request, limit=MAX_DOCUMENT_BYTES))
        if not isinstance(document, dict):
            raise MalformedMessage(problem="the body is no object")
        return document, _expected(request)

    async def _update(self, task: Task, expected: int) -> Task:
        task.revision = expected or task.revision
        asked = UpdateTaskRequest(task=task, request_id=uuid.uuid4().hex)
        answer = await retrying(lambda: self._task_service.UpdateTask(asked), seconds=WITHIN_S)
        self._directory.forget(task.task_id)
        return answer.task


def _answer(task: Task) -> Response:
    return Response(msgspec.json.encode(MessageToDict(task)), media_type=JSON, headers={"ETag": f'"{task.revision}"'})


def _expected(request: Request) -> int:
    """The revision that the request names; 0: any. Raises MalformedMessage."""
    given = request.headers.get("if-match", "*").strip()
    if given == "*":
        return 0
    if not (tag := _TAG.fullmatch(given)) or int(tag[1]) == 0:
        raise MalformedMessage(problem="If-Match must be the entity tag of the task")
    return int(tag[1])


def _task_of(document: dict[str, Any], task_id: str) -> Task:
    """Raises InvalidTask, with the path of the field."""
    try:
        task = ParseDict(document, Task())
    except (ParseError, ValueError, TypeError, RecursionError) as error:
        path = ".".join(_WHERE.findall(str(error))) or "task"
        raise InvalidTask(field=path, problem=_WHERE.sub("", str(error)).rstrip(".") or "cannot be read") from None
    if task.task_id not in ("", task_id):
        raise InvalidTask(field="taskId", problem="is not the id in the path")
    task.task_id = task_id
    return task


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _in_camel_case(document: Any) -> Any:
    """Both spellings of a field are one (`taskId`, `task_id`): merging must not make two of them."""
    if isinstance(document, list):
        return [_in_camel_case(value) for value in document]
    if not isinstance(document, dict):
        return document
    return {
        re.sub(r"_([a-z0-9])", lambda letter: letter[1].upper(), name): _in_camel_case(value)
        for name, value in document.items()
    }
