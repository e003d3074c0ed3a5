"""Who is here, and the loops that keep rounds and leases coming."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway import hub as hub_module
from gateway.hub import Hub
from gateway.service_clients import ServiceClients
from gateway.sessions.federated import RoundView
from gateway.settings import GatewaySettings
from tests.gateway.recorders import Services, weights_of
from tests.waiting import eventually


class Ears:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.heard: list[RoundView] = []

    def listen(self, round: RoundView) -> None:
        self.heard.append(round)

    async def heard_of(self, number: int) -> None:
        async def has() -> bool:
            return bool(self.heard) and self.heard[-1].number == number

        await eventually(has)


@pytest_asyncio.fixture
async def hub(settings: GatewaySettings) -> AsyncIterator[Hub]:
    clients = ServiceClients.open(settings)
    running = Hub(clients.aggregator())
    yield running
    running.close()
    await clients.close()


async def test_everybody_hears_of_every_round(hub: Hub, services: Services) -> None:
    first, second = Ears(), Ears()
    hub.enter("fed", "one", first.listen)
    await first.heard_of(0)
    hub.enter("fed", "two", second.listen)
    assert second.heard == first.heard
    await services.aggregator.publish("fed", weights_of(1.0))
    await first.heard_of(1)
    await second.heard_of(1)


async def test_rounds_go_on_after_the_aggregator_was_away(hub: Hub, services: Services) -> None:
    ears = Ears()
    hub.enter("fed", "one", ears.listen)
    await ears.heard_of(0)
    await services.stop()
    await services.aggregator.publish("fed", weights_of(1.0))
    await services.start()
    await ears.heard_of(1)


async def test_round_that_was_overtaken_is_not_told(hub: Hub, services: Services) -> None:
    ears = Ears()
    await services.aggregator.publish("fed", weights_of(1.0))
    hub.enter("fed", "one", ears.listen)
    await ears.heard_of(1)
    old = services.aggregator.round("fed")
    old.number, old.version, old.revision = 0, 0, 0
    hub.saw(old)
    assert ears.heard[-1].number == 1


async def test_store_that_went_back_is_believed_once_it_was_asked(hub: Hub, services: Services) -> None:
    ears = Ears()
    await services.aggregator.publish("fed", weights_of(1.0))
    await services.aggregator.publish("fed", weights_of(2.0))
    hub.enter("fed", "one", ears.listen)
    await ears.heard_of(2)
    del services.store.tasks["fed"].versions[1:]
    services.aggregator.revision = -1
    await services.aggregator.change()
    await ears.heard_of(0)


async def test_leases_are_renewed_while_somebody_is_here(
    hub: Hub, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "FIRST_LEASE_S", 0.03)
    ears = Ears()
    hub.enter("fed", "one", ears.listen)

    async def renewed() -> bool:
        return services.aggregator.renewals > 0

    await eventually(renewed)


async def test_last_one_out_stops_the_loops(hub: Hub) -> None:
    before = len(asyncio.all_tasks())
    one, again = Ears(), Ears()
    hub.enter("fed", "one", one.listen)
    hub.enter("fed", "one", again.listen)
    await one.heard_of(0)
    assert hub.leave("fed", "one", one.listen) is False
    assert not hub.is_deserted("fed")
    assert hub.leave("fed", "one", again.listen) is True
    assert hub.is_deserted("fed")

    async def stopped() -> bool:
        return len(asyncio.all_tasks()) <= before

    await eventually(stopped)


@pytest.mark.parametrize("takes_handover", [False, True])
async def test_version_that_comes_with_the_news_is_brought_before_anybody_hears_of_it(
    settings: GatewaySettings, services: Services, takes_handover: bool
) -> None:
    services.aggregator.brings_versions = True
    clients, happened = ServiceClients.open(settings), []
    ears = Ears()

    def listen(round: RoundView) -> None:
        happened.append(f"round {round.number}")
        ears.listen(round)

    hub = Hub(
        clients.aggregator(),
        brought=lambda task_id, version: happened.append(f"{task_id} {version.header.version} {len(version.octets)}"),
        takes_handover=takes_handover,
    )
    hub.enter("fed", "one", listen)
    await ears.heard_of(0)
    await services.aggregator.publish("fed", weights_of(1.0))
    await ears.heard_of(1)
    assert happened[:2] == ["fed 0 24", "round 0"]
    assert happened[-2:] == ["fed 1 24", "round 1"]
    assert [(each.takes_versions, each.takes_handover) for each in services.aggregator.watched] == [
        (True, takes_handover)
    ]
    hub.close()
    await clients.close()
