"""Models over HTTP: one body per version and rendering."""

from __future__ import annotations

import asyncio

import pytest
from disco.task.v1.task_pb2 import Model

from gateway.dialects.registry import RENDERINGS
from gateway.http_bodies import ServedBody, StreamedBody
from gateway.models import Models
from gateway.service_clients import ServiceClients
from learning.refusals import StoreUnavailable, TaskNotFound, TooLarge
from tests.gateway.recorders import Services, weights_of


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


async def test_weights_as_numbers_may_be_compressed_and_weights_as_they_are_not(
    models: Models, services: Services
) -> None:
    async def shrinks(form: str) -> bool:
        served = await models.model("fed", RENDERINGS[form])
        assert isinstance(served, ServedBody)
        return served.shrinks

    assert [await shrinks(form) for form in ("g21", "g30", "gdv")] == [True, False, False]
    stored = services.store.tasks["dec"].model
    stored.kind, stored.topology_json = Model.KIND_GPT, b"{}"
    body = await models.model("dec", RENDERINGS["g30"])
    assert isinstance(body, ServedBody)
    assert body.shrinks


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


@pytest.mark.parametrize("name", ["gdv", "g22", "g30", "superset"])
async def test_large_model_is_streamed_to_each_reader_with_the_bytes_of_a_held_one(
    models: Models, clients: ServiceClients, services: Services, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    held = await models.model("fed", RENDERINGS[name])
    assert isinstance(held, ServedBody)
    monkeypatch.setattr("gateway.models.HELD_TO_BYTES", 0)
    streamed = await Models(clients.task_service(), limit_bytes=1 << 20).model("fed", RENDERINGS[name])
    assert isinstance(streamed, StreamedBody)
    assert (streamed.content_type, streamed.size, streamed.tag) == (held.content_type, held.size, held.tag)
    for _ in range(2):
        assert b"".join([chunk async for chunk in streamed.chunks()]) == held.body


async def test_topology_of_a_large_model_is_read_without_its_weights(
    models: Models, clients: ServiceClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await models.model("fed", RENDERINGS["tfjs"])
    monkeypatch.setattr("gateway.models.collect", None)
    assert await Models(clients.task_service(), limit_bytes=8).model("fed", RENDERINGS["tfjs"]) == whole


async def test_weights_written_as_numbers_are_held_however_large(
    clients: ServiceClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.models.HELD_TO_BYTES", 0)
    assert isinstance(
        await Models(clients.task_service(), limit_bytes=1 << 20).model("fed", RENDERINGS["g21"]), ServedBody
    )
