"""Tasks as the gateway knows them, with a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.service_clients import ServiceClients
from gateway.settings import GatewaySettings
from gateway.task_directory import FRESH_S, TaskDirectory
from learning.refusals import StoreUnavailable, TaskNotFound
from tests.gateway.recorders import SHAPES, Services


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def directory(settings: GatewaySettings, clock: Clock) -> AsyncIterator[TaskDirectory]:
    clients = ServiceClients.open(settings)
    yield TaskDirectory(clients.task_service(), clock=clock)
    await clients.close()


async def test_task_comes_with_the_shapes_of_its_model(directory: TaskDirectory) -> None:
    entry = await directory.entry("fed")
    assert (entry.task.task_id, entry.shapes) == ("fed", SHAPES)


async def test_answer_is_kept_for_a_moment_and_then_asked_for_again(
    directory: TaskDirectory, services: Services, clock: Clock
) -> None:
    await directory.tasks()
    services.store.add("new")
    assert [task.task_id for task in await directory.tasks()] == ["dec", "fed"]
    clock.now += FRESH_S
    assert [task.task_id for task in await directory.tasks()] == ["dec", "fed", "new"]


async def test_list_is_asked_for_again_once_a_task_was_created(directory: TaskDirectory, services: Services) -> None:
    await directory.tasks()
    services.store.add("new")
    directory.forget_list()
    assert [task.task_id for task in await directory.tasks()] == ["dec", "fed", "new"]


async def test_what_is_known_outlives_the_task_service(
    directory: TaskDirectory, services: Services, clock: Clock
) -> None:
    await directory.tasks()
    await directory.entry("fed")
    clock.now += FRESH_S
    await services.stop()
    assert len(await directory.tasks()) == 2
    assert (await directory.entry("fed")).task.task_id == "fed"
    with pytest.raises(StoreUnavailable):
        await directory.entry("dec")
    await services.start()


async def test_nothing_is_known_before_the_task_service_answered(directory: TaskDirectory, services: Services) -> None:
    await services.stop()
    with pytest.raises(StoreUnavailable):
        await directory.tasks()
    await services.start()


async def test_task_that_is_gone_is_forgotten(directory: TaskDirectory, services: Services, clock: Clock) -> None:
    await directory.entry("fed")
    del services.store.tasks["fed"]
    clock.now += FRESH_S
    with pytest.raises(TaskNotFound):
        await directory.entry("fed")
    await services.stop()
    with pytest.raises(StoreUnavailable):
        await directory.entry("fed")
    await services.start()
