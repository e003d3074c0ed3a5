"""A folder of task files: loaded at start, and watched.

    wine.json                 a task whose model is at its modelURL, or beside it: wine/model.json
    wine/task.json            a task, its model beside it: wine/model.json and its shards (as `tasks export` writes it)

A file that is new becomes a task; one that changed updates the task: what is told about
it, and how long it is trained (everything else is fixed once a task exists, and said so).
A file that goes away deletes nothing. A file that is wrong is one line in the log, with
its JSON paths, and tried again when it changes.

The folder is looked at once a second, and a file is read when it has stayed the same between
two looks: so half-written files are left alone, and it works on every kind of disk, where
notifications do not. Names that begin with "." or "#" or end with "~" are editors' own.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
from disco.task.v1.task_pb2 import Model
from disco.task.v1.task_service_pb2 import GetTaskRequest, UpdateTaskRequest

from gateway.dialects.task_uploads import parse_task
from gateway.task_sources.creating import create_task
from gateway.task_sources.model_files import MAX_MODEL_FILE_BYTES, MODEL_FILE
from gateway.task_sources.offers import Offers
from gateway.uploads import parse_json
from learning.refusals import DiscoError, Fault, InvalidTask, TaskAlreadyExists, TaskNotFound, TooLarge
from rpc.channel import retrying
from rpc.task_messages import task_to_proto

if TYPE_CHECKING:
    from disco.task.v1.task_service_pb2_grpc import TaskServiceAsyncStub

POLL_S: Final = 1.0
CALL_WITHIN_S: Final = 20.0
TASK_FILE: Final = "task.json"
MAX_FILES: Final = 10_000
"""Of one task, and of the folder: what is more than that is not looked at."""

_log = structlog.stdlib.get_logger("gateway")

Look = tuple[tuple[str, int, int, int], ...]
"""What can be seen of the files of a task without reading them: name, size, time of change, inode."""


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """A task file, and where its model would be."""

    task: Path
    model: Path

    def look(self) -> Look:
        """Empty where the task file is gone."""
        seen = []
        for path in (self.task, *sorted(_files_below(self.model.parent))):
            try:
                stat = path.stat()
            except OSError:
                if path == self.task:
                    return ()
                continue  # it went away just now: the next look will differ
            seen.append((str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino))
        return tuple(seen)


class TaskFolder:
    """`pause` waits between two looks."""

    def __init__(
        self,
        folder: Path,
        *,
        task_service: TaskServiceAsyncStub,
        offers: Offers,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._folder = folder
        self._task_service = task_service
        self._offers = offers
        self._pause = pause
        self._seen: dict[Path, Look] = {}
        self._handled: dict[Path, Look] = {}

    async def watch(self) -> None:
        """Never returns."""
        while True:
            try:
                await self.look_once()
            # A pump: a bug that one file brings out must not end the watch over the others.
            except Exception:  # noqa: BLE001
                _log.exception("task_folder.look_failed", folder=str(self._folder))
            await self._pause(POLL_S)

    async def look_once(self) -> None:
        """Handles every file that has stayed the same since the last look and is not what was handled before."""
        found = await asyncio.to_thread(self._look)
        for gone in self._handled.keys() - found.keys():
            del self._handled[gone]
            _log.warning("task_folder.file_removed", file=str(gone), kept="the task stays; delete it over the API")
        for path, (files, look) in sorted(found.items()):
            if look and look == self._seen.get(path) and look != self._handled.get(path) and await self._handle(files):
                self._handled[path] = look
        self._seen = {path: look for path, (_, look) in found.items()}

    def _look(self) -> dict[Path, tuple[TaskFiles, Look]]:
        return {files.task: (files, files.look()) for files in _task_files(self._folder)}

    async def _handle(self, files: TaskFiles) -> bool:
        """Whether there is nothing left to do until the files change."""
        try:
            what = await self._add_or_update(files)
        except Fault as error:
            _log.warning("task_folder.waiting", file=str(files.task), because=str(error))
            return False
        except InvalidTask as refusal:
            _log.error("task_folder.file_refused", file=str(files.task), errors=dict(refusal.problems))
        except DiscoError as refusal:
            _log.error("task_folder.file_refused", file=str(files.task), because=str(refusal))
        except OSError as error:
            _log.error("task_folder.file_refused", file=str(files.task), because=error.strerror)
        else:
            _log.info(f"task_folder.{what}", file=str(files.task))
        return True

    async def _add_or_update(self, files: TaskFiles) -> str:
        document = await asyncio.to_thread(_read, files.task)
        task_id = parse_task(document).task_id
        try:
            await self._update(document, task_id)
        except TaskNotFound:
            pass
        else:
            return "task_up_to_date"
        try:
            await self._create(document, files)
        except TaskAlreadyExists:  # another gateway looks at the same folder
            await self._update(document, task_id)
        return "task_added"

    async def _create(self, document: object, files: TaskFiles) -> None:
        if await asyncio.to_thread(files.model.is_file):
            await create_task(self._task_service, await self._offers.from_files(document, files.model))
            return
        with tempfile.TemporaryDirectory(prefix="disco-folder-") as directory:
            offer = await self._offers.from_document(document, Path(directory))
            await create_task(self._task_service, offer)

    async def _update(self, document: object, task_id: str) -> None:
        """Raises TaskNotFound; TaskFieldFixed where what cannot change is to change."""
        asked = GetTaskRequest(task_id=task_id)
        there = await retrying(lambda: self._task_service.GetTask(asked), seconds=CALL_WITHIN_S)
        task = parse_task(
            document,
            tensor_backend="gpt" if there.model.kind == Model.KIND_GPT else "tfjs",
            training_config_json=there.model.training_config_json,
        )
        message = task_to_proto(task)
        message.ClearField("policy")  # changed while a task runs, by other means
        message.ClearField("aggregation")
        wanted = UpdateTaskRequest(task=message)
        await retrying(lambda: self._task_service.UpdateTask(wanted), seconds=CALL_WITHIN_S)


def _task_files(folder: Path) -> Iterator[TaskFiles]:
    """In the order of their names."""
    try:
        entries = sorted(folder.iterdir())[:MAX_FILES]
    except OSError as error:
        _log.error("task_folder.unreadable", folder=str(folder), because=error.strerror)
        return
    for entry in entries:
        if _is_editors(entry.name):
            continue
        if entry.suffix == ".json" and entry.is_file():
            yield TaskFiles(entry, entry.with_suffix("") / MODEL_FILE)
        elif (entry / TASK_FILE).is_file():
            yield TaskFiles(entry / TASK_FILE, entry / MODEL_FILE)


def _files_below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = (path for path in folder.rglob("*") if path.is_file() and not _is_editors(path.name))
    return [path for path, _ in zip(found, range(MAX_FILES), strict=False)]


def _is_editors(name: str) -> bool:
    return name.startswith((".", "#")) or name.endswith("~")


def _read(path: Path) -> Any:
    if path.stat().st_size > MAX_MODEL_FILE_BYTES:
        raise TooLarge(limit_bytes=MAX_MODEL_FILE_BYTES)
    return parse_json(path.read_bytes())
