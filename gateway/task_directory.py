"""The tasks as the gateway knows them: asked for, kept for a moment, and kept longer while nobody answers.

Knows the task service's messages; nothing of HTTP and sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from disco.task.v1.task_service_pb2 import GetTaskRequest, ListTasksRequest

from gateway.dialects.messages import Shapes
from learning.refusals import DiscoError, Fault, TaskNotFound
from learning.task import Task
from rpc.task_messages import task_from_proto

if TYPE_CHECKING:
    from disco.task.v1.task_service_pb2_grpc import TaskServiceAsyncStub

FRESH_S = 2.0
"""How long an answer of the task service is taken for the present."""
DEADLINE_S = 5.0
PAGE_SIZE = 1000

_log = structlog.stdlib.get_logger("gateway")


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """One task, and the shapes of its model's weights."""

    task: Task
    shapes: Shapes


class TaskDirectory:
    """One per gateway."""

    def __init__(self, task_service: TaskServiceAsyncStub, *, clock: Callable[[], float]) -> None:
        self._task_service = task_service
        self._clock = clock
        self._entries: dict[str, tuple[float, TaskEntry]] = {}
        self._tasks: tuple[float, tuple[Task, ...]] | None = None
        self._listing = asyncio.Lock()

    async def tasks(self) -> tuple[Task, ...]:
        """All tasks in the order of their ids. Raises StoreUnavailable where they were never known."""
        async with self._listing:
            if self._tasks is not None and self._clock() < self._tasks[0]:
                return self._tasks[1]
            try:
                tasks = await self._read_list()
            except Fault:
                if self._tasks is None:
                    raise
                tasks = self._tasks[1]
            self._tasks = self._clock() + FRESH_S, tasks
            return tasks

    async def entry(self, task_id: str) -> TaskEntry:
        """One task. Raises TaskNotFound, and StoreUnavailable where it is not known and cannot be had."""
        known = self._entries.get(task_id)
        if known is not None and self._clock() < known[0]:
            return known[1]
        try:
            entry = await self._read_entry(task_id)
        except TaskNotFound:
            self._entries.pop(task_id, None)
            raise
        except Fault:
            if known is None:
                raise
            entry = known[1]
        self._entries[task_id] = self._clock() + FRESH_S, entry
        return entry

    def forget(self, task_id: str) -> None:
        """A task was changed or deleted: it is to be read again."""
        self._entries.pop(task_id, None)
        self.forget_list()

    def forget_list(self) -> None:
        """A task was created: the next list is to have it."""
        self._tasks = self._tasks and (0.0, self._tasks[1])

    async def _read_list(self) -> tuple[Task, ...]:
        found: list[Task] = []
        page_token = ""
        while True:
            request = ListTasksRequest(page_size=PAGE_SIZE, page_token=page_token)
            page = await self._task_service.ListTasks(request, timeout=DEADLINE_S)
            for message in page.tasks:
                try:
                    found.append(task_from_proto(message))
                except DiscoError as error:
                    # A newer service may know tasks that we do not: they cost themselves only, not the list.
                    _log.warning("task.unreadable", task_id=message.task_id, problem=str(error))
            page_token = page.next_page_token
            if not page_token:
                return tuple(found)

    async def _read_entry(self, task_id: str) -> TaskEntry:
        answer = await self._task_service.GetTask(GetTaskRequest(task_id=task_id), timeout=DEADLINE_S)
        shapes = tuple(tuple(spec.shape) for spec in answer.model.weight_specs)
        return TaskEntry(task_from_proto(answer.task), shapes)
