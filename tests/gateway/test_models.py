"""Models over HTTP: one body per version and rendering."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.dialects.registry import RENDERINGS
from gateway.models import Models
from gateway.service_clients import ServiceClients
from gateway.settings import GatewaySettings
from learning.refusals import StoreUnavailable, TaskNotFound, TooLarge
from tests.gateway.recorders import Services, weights_of


@pytest_asyncio.fixture
async def clients(settings: GatewaySettings) -> AsyncIterator[ServiceClients]:
    opened = ServiceClients.open(settings)
    yield opened
    await opened.close()


@pytest.fixture
def models(clients: ServiceClients) -> Models:
    return Models(clients.task_service(), limit_bytes=1 << 20)


async def test_body_is_made_once_for_all_who_ask_at_the_same_time(models: Models) -> None:
    served = await asyncio.gather(*(models.model("fed", RENDERINGS["g21"]) for _ in range(4)))
    assert all(one is served[0] for one in served)
    assert served[0].tag.endswith('-g21"')


async def test_each_version_and_each_rendering_has_its_own_tag(models: Models, services: Services) -> None:
    tags = {(await models.model("fed", RENDERINGS[name])).tag for name in ("g21", "g30")}
    tags.add((await models.shard("fed")).tag)
    await services.aggregator.publish("fed", weights_of(1.0))
    tags.add((await models.shard("fed")).tag)
    assert len(tags) == 4


async def test_known_body_is_served_while_the_task_service_is_away(models: Models, services: Services) -> None:
    known = await models.shard("fed")
    await services.stop()
    assert await models.shard("fed") is known
    with pytest.raises(StoreUnavailable):
        await models.shard("dec")
    await services.start()


async def test_unknown_task_and_model_over_the_limit_are_refused(models: Models, clients: ServiceClients) -> None:
    with pytest.raises(TaskNotFound):
        await models.shard("unknown")
    with pytest.raises(TooLarge):
        await Models(clients.task_service(), limit_bytes=8).shard("fed")
