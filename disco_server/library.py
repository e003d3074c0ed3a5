"""Disco as a library: a program of one's own that defines tasks, adds routes, and serves.

    disco = Disco()
    await disco.add_default_tasks()
    await disco.add_task(Wine())
    disco.app.add_api_route("/hello", hello)
    await disco.serve()

Tasks are written to the store at once, so that what is wrong with one is said by the
call that adds it. `serve` starts what `disco-server` starts, except that the
gateway runs in this process. Owns no rule.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import structlog
from disco.task.v1.task_pb2 import Model as ModelMessage
from fastapi import FastAPI
from rich.console import Console

from blobstore.opening import open_store
from blobstore.records import Model, TaskRecord, WeightSpec
from blobstore.store import BlobStore
from disco_server.cannot_start import CannotStart
from disco_server.launcher import Launcher
from disco_server.offered_models import ModelReader
from disco_server.screen import Screen
from disco_server.settings import LauncherSettings
from disco_server.system import System
from disco_server.task_provider import ModelSource, TaskDescription, TaskProvider
from disco_server.until_signal import run_until_signal
from gateway.app import new_http_app
from gateway.dialects.model_uploads import PushedModel
from gateway.dialects.task_uploads import parse_task
from gateway.serving import serving
from gateway.settings import GatewaySettings
from gateway.task_sources.fetching import Fetcher
from gateway.task_sources.given_digest import given_digest
from learning.refusals import InvalidModel, TaskAlreadyExists
from learning.task import Task
from rpc import logs
from rpc.server import CannotListen
from rpc.settings import PREFIX
from services.task_service.catalog import Catalog
from services.task_service.settings import TaskServiceSettings
from services.task_service.task_changes import TaskChanges

READY_POLL_S = 0.05


class Disco:
    """A Disco server. What is not given comes from the `DISCO_*` variables, as for `disco-server`.

    Raises ValueError where a setting is wrong.
    """

    def __init__(
        self, *, host: str | None = None, port: int | None = None, data_dir: str | os.PathLike[str] | None = None
    ) -> None:
        given = {"GATEWAY_HOST": host, "GATEWAY_PORT": port, "DATA_DIR": data_dir}
        self._environment = {
            **os.environ,
            **{PREFIX + name: str(value) for name, value in given.items() if value is not None},
        }
        self._settings = _settings(LauncherSettings, self._environment)
        gateway = _settings(GatewaySettings, self._environment)
        self._max_bytes = gateway.max_message_bytes
        self._models = ModelReader(Fetcher(gateway.networks_to_fetch_from), limit_bytes=self._max_bytes)
        self._app = new_http_app()

    @property
    def app(self) -> FastAPI:
        """The gateway's HTTP application, for routes and middleware of one's own; Disco's own routes win.

        Every path reaches it without a slash at its end. Sockets do not pass through it.
        """
        return self._app

    async def add_default_tasks(self, task_ids: Sequence[str] | None = None) -> None:
        """Adds the tasks that Disco brings along: these, else those of DISCO_DEFAULT_TASKS; all, by default."""
        wanted = _settings(TaskServiceSettings, self._environment).default_task_ids if task_ids is None else task_ids
        async with self._store() as store:
            await Catalog(store, max_bytes=self._max_bytes).add_default_tasks(wanted, now=time.time())

    async def add_task(
        self, provider_or_task: TaskProvider | TaskDescription, model_or_url: ModelSource | None = None
    ) -> Task:
        """Adds a task, and returns it as it is kept. The model comes from the provider, or is given beside a task.

        A task that is there already, from an earlier run, stays with all that was learned; what is told about it,
        and how long it is trained, becomes what is said now.
        Raises InvalidTask, InvalidModel, InvalidWeights, TooLarge, DigestMismatch;
        TaskAlreadyExists where a task with another model has the id, TaskFieldFixed where more is to change.
        """
        described, source = await _provided(provider_or_task, model_or_url)
        source = source if source is not None else _model_url(described)
        if source is None:
            raise InvalidModel(problem="it is missing: give it beside the task, or a modelURL in it")
        model = await self._models.read(source, digest=given_digest(described))
        task = described if isinstance(described, Task) else _parsed(described, model)
        async with self._store() as store:
            return (await _kept(store, task, model, max_bytes=self._max_bytes)).task

    async def serve(self) -> None:
        """Runs Redis, the services and the gateway until SIGINT or SIGTERM. Raises CannotStart."""
        self._set_up_logs()
        screen = self._screen()
        await run_until_signal(self._launcher(screen), screen)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """The same while a block runs, for tests and notebooks; yields the address. Raises CannotStart."""
        self._set_up_logs()
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        running = asyncio.create_task(self._launcher(self._screen(), ready=ready).run(stop))
        try:
            await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                await running
            yield ready.result()
        finally:
            stop.set()
            await running

    def _launcher(self, screen: Screen, ready: asyncio.Future[str] | None = None) -> Launcher:
        # What is there from the start is in the store already.
        environment = {**self._environment, "DISCO_DEFAULT_TASKS": "none"}
        return Launcher(
            self._settings,
            environment=environment,
            screen=screen,
            gateway=self._gateway,
            ready=ready.set_result if ready else None,
        )

    @asynccontextmanager
    async def _gateway(self, system: System, environment: Mapping[str, str]) -> AsyncIterator[None]:
        settings = _settings(GatewaySettings, system.gateway_plan(environment).environment)
        try:
            async with serving(settings, http=self._app) as ended:
                while not await system.gateway_is_ready():
                    await asyncio.wait({ended}, timeout=READY_POLL_S)
                    if ended.done():
                        raise CannotStart("The gateway did not start: its application failed; see above.")
                yield
        except CannotListen as error:
            raise CannotStart(str(error)) from error

    @asynccontextmanager
    async def _store(self) -> AsyncIterator[BlobStore]:
        await asyncio.to_thread(self._settings.data_dir.mkdir, parents=True, exist_ok=True)
        async with open_store(self._settings) as store:
            yield store

    def _screen(self) -> Screen:
        return Screen(Console(), json_lines=self._settings.log_format == "json")

    def _set_up_logs(self) -> None:
        """Unless the program has done so itself."""
        if structlog.is_configured() or logging.getLogger().handlers:
            return
        is_json = self._settings.log_format == "json"
        logs.configure("gateway", level=self._settings.log_level, format="json" if is_json else "console")
        logging.getLogger("uvicorn").setLevel(logging.WARNING)


_SettingsClass = TypeVar("_SettingsClass", LauncherSettings, GatewaySettings, TaskServiceSettings)


def _settings(settings_class: type[_SettingsClass], environment: Mapping[str, str]) -> _SettingsClass:
    names = {name: PREFIX + name.upper() for name in settings_class.model_fields}
    given: dict[str, Any] = {
        name: environment[variable] for name, variable in names.items() if environment.get(variable)
    }
    return settings_class(**given)


async def _provided(
    given: TaskProvider | TaskDescription, model: ModelSource | None
) -> tuple[TaskDescription, ModelSource | None]:
    if not isinstance(given, TaskProvider):
        return given, model
    task = await _awaited(given.get_task())
    return task, model if model is not None else await _awaited(given.get_model())


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _model_url(described: TaskDescription) -> str | None:
    if isinstance(described, Task):
        return described.training.model_url or None
    training = described.get("trainingInformation")
    url = training.get("modelURL") if isinstance(training, Mapping) else None
    return url if isinstance(url, str) and url else None


def _parsed(document: Mapping[str, Any], model: PushedModel) -> Task:
    return parse_task(document, tensor_backend=_kind(model), training_config_json=model.training_config_json)


def _kind(model: PushedModel) -> str:
    return "gpt" if model.kind == ModelMessage.KIND_GPT else "tfjs"


async def _kept(store: BlobStore, task: Task, model: PushedModel, *, max_bytes: int) -> TaskRecord:
    offered = Model(
        kind=_kind(model),
        topology_json=model.topology_json.decode(),
        weight_specs=tuple(WeightSpec(name, shape) for name, shape in model.weight_specs),
        training_config_json=model.training_config_json.decode(),
    )
    catalog = Catalog(store, max_bytes=max_bytes)
    try:
        return await catalog.create(task, offered, model.weights or None, request_id="", now=time.time())
    except TaskAlreadyExists:
        _, there = await catalog.task(task.task_id)
        # The weights may differ: a model that is built anew in every run begins with other numbers.
        if there.topology_json != offered.topology_json:
            raise
        return await TaskChanges(store).update(task, expected=0, request_id="", now=time.time())
