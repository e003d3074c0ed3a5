"""Starts the whole system on this machine, keeps it running, and stops it in order.

Redis first, then the services with the gateway beside them; when it stops, the gateway first, then the services,
then Redis. Knows the order and nothing of what the processes do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from disco_server.cannot_start import CannotStart
from disco_server.data_directory import locked
from disco_server.embedded_redis import EmbeddedRedis, answers
from disco_server.handover_folder import handover_folder
from disco_server.processes import POLL_S, Supervisor
from disco_server.screen import Screen, TaskRow
from disco_server.settings import LauncherSettings
from disco_server.system import System, decide

REDIS_S = 15.0
HANDOVER_DIR = "DISCO_HANDOVER_DIR"


RunGateway = Callable[[System, Mapping[str, str]], AbstractAsyncContextManager[None]]
"""Serves a gateway while a block runs; it is told the system, and the environment of its processes."""


class Launcher:
    """One run of the system; `environment` is what its processes inherit.

    With a `gateway` to run here instead of in a process, `ready` is told its address when everything answers.
    """

    def __init__(
        self,
        settings: LauncherSettings,
        *,
        environment: Mapping[str, str],
        screen: Screen,
        gateway: RunGateway | None = None,
        ready: Callable[[str], None] | None = None,
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._screen = screen
        self._gateway = gateway
        self._ready = ready
        self._supervisor = Supervisor(screen)

    async def run(self, stop: asyncio.Event) -> None:
        """Returns when `stop` is set and everything has ended. Raises CannotStart."""
        directory = self._settings.data_dir.absolute()
        with locked(directory):
            system = decide(self._settings)
            async with AsyncExitStack() as stack:
                redis = await self._own_redis(directory, stack)
                handover = stack.enter_context(handover_folder())
                stack.push_async_callback(self._supervisor.stop)
                started = await _unless(stop, self._start(system, redis, directory, handover, stack))
                if started:
                    if self._ready is not None:
                        self._ready(system.address)
                    await stop.wait()
                self._screen.say("Stopping: the gateway first, Redis last.")
        self._screen.say("Stopped.")

    def kill(self) -> None:
        """Ends every process at once. What was acknowledged stays, as when the power goes."""
        self._supervisor.kill()

    async def _own_redis(self, directory: Path, stack: AsyncExitStack) -> EmbeddedRedis | None:
        """The Redis to start; None where there is one to use."""
        if self._settings.redis_url:
            return None
        redis = EmbeddedRedis(directory / "redis", durability=self._settings.durability)
        stack.callback(redis.close)
        await stack.enter_async_context(_running(self._keep_on_disk(redis)))
        return redis

    async def _keep_on_disk(self, redis: EmbeddedRedis) -> None:
        complained = False
        while True:
            try:
                await redis.keep_on_disk()
                return
            except OSError as error:
                if not complained:
                    self._screen.say(
                        f"The files of Redis cannot be brought to the disk ({error.strerror}): look after it."
                    )
                complained = True

    async def _start(
        self,
        system: System,
        redis: EmbeddedRedis | None,
        directory: Path,
        handover: Path | None,
        stack: AsyncExitStack,
    ) -> None:
        environment = {
            **self._environment,
            "DISCO_DATA_DIR": str(directory),
            "DISCO_LOG_FORMAT": "json" if self._settings.log_format == "json" else "console",
            "PYTHONUNBUFFERED": "1",
        }
        if handover is not None:
            environment.setdefault(HANDOVER_DIR, str(handover))
        if redis is None:
            await _wait_for_redis(self._settings.redis_url)
        else:
            plan = redis.plan(environment)
            for path in redis.mended:
                self._screen.say(f"A loss of power had torn {path}: it was cut, and is kept as {path.name}.torn.")
            await self._supervisor.start(plan)
            environment["DISCO_REDIS_URL"] = redis.url
        services = system.service_plans(environment)
        if self._gateway is None:
            self._screen.say("Starting the services and the gateway.")
            # Side by side, since most of a start is Python's own: the gateway says that it is not ready until it
            # reaches every service, as it does when one of them goes away later.
            await self._supervisor.start_together(services, [system.gateway_plan(environment)])
        else:
            self._screen.say("Starting the services.")
            await self._supervisor.start(*services)
            await stack.enter_async_context(self._gateway(system, environment))
        self._screen.tasks(system.address, await _tasks(system))
        self._screen.say(f"Ready at {system.address} with data in {directory}. Ctrl-C stops everything.")


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Whether the work was done before `stop` was set; if not, it is cancelled."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        working.result()
        return True
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.wait({working, stopping})


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs in the background until the block ends."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _wait_for_redis(url: str) -> None:
    parts = urlsplit(url)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # passwords are not for the screen
    try:
        async with asyncio.timeout(REDIS_S):
            while not await answers(url):  # noqa: ASYNC110 (nobody tells when a Redis comes)
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise CannotStart(
            f"The Redis at {shown} (DISCO_REDIS_URL) does not answer: start it, or leave it out."
        ) from None
    except ValueError as error:
        raise CannotStart(f"DISCO_REDIS_URL is no address of a Redis: {error}.") from error


async def _tasks(system: System) -> list[TaskRow]:
    status, body = await system.get("/tasks")
    if status != HTTPStatus.OK:
        return []
    return [_row(task) for task in json.loads(body)]


def _row(task: dict[str, Any]) -> TaskRow:
    """A task as any generation of clients sees it."""
    display = task.get("displayInformation", {})
    title = display.get("taskTitle") or display.get("title", "")
    return TaskRow(
        task_id=str(task.get("id") or task.get("taskID", "")),
        title=str(title),
        scheme=str(task.get("trainingInformation", {}).get("scheme", "")).lower(),
    )
