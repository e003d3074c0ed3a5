"""What requests and sockets are taken for, where the gateway has to ask and to remember."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import pytest_asyncio
import structlog
from prometheus_client import CollectorRegistry
from starlette.datastructures import Headers
from websockets.asyncio.client import connect
from websockets.typing import Origin

from gateway.app import create_app
from gateway.dialect_choice import DialectChoice
from gateway.service_clients import ServiceClients
from gateway.settings import GatewaySettings
from gateway.task_directory import TaskDirectory
from tests.gateway.conftest import Running
from tests.gateway.recorders import Services
from tests.gateway.test_websocket import hear, say

AXIOS = {"accept": "application/json, text/plain, */*", "user-agent": "Mozilla/5.0"}
G21, G30 = {**AXIOS, "user-agent": "axios/0.27.2"}, {**AXIOS, "user-agent": "axios/1.7.2"}
MODEL, TASKS, PEER = "/tasks/fed/model.json", "/tasks", "/deai/dec"
LONG_S = 300.0


class Asking:
    """Clients with addresses, before one gateway whose clock is moved by hand."""

    def __init__(self, settings: GatewaySettings, clients: ServiceClients) -> None:
        self.now = 1000.0
        directory = TaskDirectory(clients.task_service(), clock=lambda: self.now)
        self._choice = DialectChoice(settings, directory=directory, clock=lambda: self.now)

    async def of(self, path: str, address: str = "192.0.2.1", **headers: str) -> tuple[str, str]:
        kind = "http" if path.startswith(("/tasks", "/v", "/healthz")) else "websocket"
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope: dict[str, Any] = {"type": kind, "path": path, "query_string": b"", "headers": raw}
        scope |= {"client": (address, 1), "subprotocols": []}
        found = await self._choice.of(scope, Headers(scope=scope), path=path)
        return found.rule, found.dialect


@pytest_asyncio.fixture
async def asking(settings: GatewaySettings) -> AsyncIterator[Asking]:
    clients = ServiceClients.open(settings)
    yield Asking(settings, clients)
    await clients.close()


def pin(services: Services, task_id: str, dialect: str) -> None:
    stored = services.store.tasks[task_id]
    stored.task = replace(stored.task, pinned_dialect=dialect)


async def test_peer_is_taken_for_what_its_address_spoke_last(asking: Asking) -> None:
    assert await asking.of(PEER) == ("default", "g21")
    await asking.of(TASKS, **G30)
    assert await asking.of(PEER) == ("memory", "g30")
    assert await asking.of(PEER, "192.0.2.2") == ("default", "g21")
    await asking.of(TASKS, **G21)
    assert await asking.of(PEER) == ("memory", "g21")


async def test_memory_ends_with_its_time_and_lives_of_no_guess(asking: Asking) -> None:
    await asking.of(TASKS, **G30)
    asking.now += LONG_S - 1
    assert await asking.of(PEER) == ("memory", "g30")
    asking.now += 1
    assert await asking.of(PEER) == ("default", "g21")


async def test_what_nobody_showed_is_not_remembered(asking: Asking) -> None:
    """The document of no generation, a default, and what a watchdog asks for say nothing about clients."""
    await asking.of(MODEL, accept="application/json")
    await asking.of(MODEL, **AXIOS)
    await asking.of("/healthz", **G30)
    assert await asking.of(PEER) == ("default", "g21")


async def test_a_guess_by_the_address_is_logged(asking: Asking) -> None:
    await asking.of(TASKS, **G30)
    with structlog.testing.capture_logs() as logged:
        await asking.of(PEER)
        await asking.of(TASKS, **G30)
    (line,) = logged
    assert (line["event"], line["dialect"], line["path"]) == ("dialect.remembered", "g30", PEER)


async def test_pin_of_the_task_beats_the_address(asking: Asking, services: Services) -> None:
    pin(services, "dec", "g30")
    await asking.of(TASKS, **G21)
    assert await asking.of(PEER) == ("pin", "g30")
    assert await asking.of(MODEL, **AXIOS) == ("memory", "g30")  # who opened a socket there has shown what it speaks


async def test_who_only_reads_a_pinned_model_has_shown_nothing(asking: Asking, services: Services) -> None:
    pin(services, "fed", "g21")
    assert await asking.of(MODEL, **AXIOS) == ("pin", "g21")
    assert await asking.of(TASKS, **AXIOS) == ("default", "superset")


async def test_task_is_asked_for_only_where_nothing_else_decides(asking: Asking, services: Services) -> None:
    pin(services, "fed", "g21")
    assert await asking.of(MODEL, **G30) == ("headers", "g30")
    assert services.tasks.looked_up == 0
    await services.stop()
    assert await asking.of(MODEL, "192.0.2.9", **AXIOS) == ("default", "superset")
    await services.start()


@pytest.mark.parametrize("path", ["/tasks/nope/model.json", "/tasks/bad id/model.json", "/deai/bad id"])
async def test_task_that_is_none_decides_nothing(asking: Asking, path: str) -> None:
    assert (await asking.of(path, **AXIOS))[0] == "default"


@pytest.mark.parametrize("header", ["x_forwarded_for", "forwarded", "via"])
async def test_what_a_proxy_asks_for_others_is_not_remembered(asking: Asking, header: str) -> None:
    relayed = {header: "198.51.100.7"}
    await asking.of(TASKS, **G30, **relayed)
    assert await asking.of(PEER) == await asking.of(PEER, **relayed) == ("default", "g21")


@pytest.mark.parametrize("settings", [{"forwarded_for": "trusted"}], indirect=True)
async def test_clients_behind_a_trusted_proxy_are_told_apart(asking: Asking) -> None:
    await asking.of(TASKS, **G30, x_forwarded_for="203.0.113.9, 198.51.100.7")
    assert await asking.of(PEER, x_forwarded_for="198.51.100.7") == ("memory", "g30")
    assert await asking.of(PEER, x_forwarded_for="198.51.100.8") == ("default", "g21")
    assert await asking.of(PEER, x_forwarded_for="198.51.100.7, 203.0.113.9") == ("default", "g21")


async def test_one_network_of_ipv6_is_one_address(asking: Asking) -> None:
    await asking.of(TASKS, "2001:db8::1", **G30)
    assert await asking.of(PEER, "2001:db8::2:3") == ("memory", "g30")
    assert await asking.of(PEER, "2001:db8:1::1") == ("default", "g21")


@pytest.mark.parametrize("settings", [{"dialect_memory_s": 0}], indirect=True)
async def test_memory_can_be_turned_off(asking: Asking) -> None:
    await asking.of(TASKS, **G30)
    assert await asking.of(PEER) == ("default", "g21")


@pytest.mark.parametrize("settings", [{"origin_dialects": "https://app.example=g22"}], indirect=True)
async def test_page_of_a_known_origin_is_known_on_both_ways(asking: Asking) -> None:
    page = {"origin": "https://app.example"}
    assert await asking.of("/feai/fed", **page) == ("origin", "g22")
    assert await asking.of(TASKS, **AXIOS, **page) == ("origin", "g22")
    assert await asking.of("/feai/fed") == ("default", "g30")  # an address is too weak a sign for 2.2 there


@pytest.mark.parametrize("settings", [{"origin_dialects": "http://app.example=g22"}], indirect=True)
async def test_browser_of_a_known_origin_joins_in_its_own_words(gateway: Running) -> None:
    """G22 is answered a contribution with 8, and 3.0 with 7: nothing else on this path could tell them apart."""
    async with connect(f"{gateway.socket_url}/feai/fed", origin=Origin("http://app.example")) as socket:
        await say(socket, type=0)
        await hear(socket)
        assert gateway.counted("disco_gateway_sockets", scheme="federated", dialect="g22") == 1


async def test_peer_joins_a_pinned_task_as_the_pin_says(gateway: Running, services: Services) -> None:
    async with connect(f"{gateway.socket_url}/deai/dec") as socket:
        await say(socket, type=0)
        assert isinstance((await hear(socket))["id"], int)
    pin(services, "dec", "g30")
    services.store.tasks["later"] = services.store.tasks.pop("dec")
    later = services.store.tasks["later"]
    later.task = replace(later.task, task_id="later")  # type: ignore[arg-type]
    async with connect(f"{gateway.socket_url}/deai/later") as socket:
        await say(socket, type=0)
        assert isinstance((await hear(socket))["id"], str)


async def test_model_of_a_pinned_task_is_in_the_words_of_the_pin(http: httpx.AsyncClient, services: Services) -> None:
    before = await http.get(MODEL, headers=AXIOS)
    assert before.headers["content-type"] == "application/octet-stream"
    stored = services.store.tasks["fed"]
    services.store.tasks["early"] = replace(
        stored,
        task=replace(stored.task, task_id="early", pinned_dialect="g21"),  # type: ignore[arg-type]
    )
    early = await http.get("/tasks/early/model.json", headers=AXIOS)
    assert early.headers["content-type"] == "application/json"
    assert early.content == (await http.get("/v2.1/tasks/early/model.json")).content
    assert (await http.get("/tasks/early/model.json", headers=G30)).content == before.content


@pytest.mark.parametrize("remembered", [False, True])
async def test_list_for_everybody_counts_rounds_as_the_guess_does(
    settings: GatewaySettings, services: Services, remembered: bool
) -> None:
    """Each document stays one that the validators of all generations take, whoever is remembered."""
    training = replace(services.store.tasks["fed"].task.training, round_duration_batches=7, round_duration_epochs=2)
    for task_id, dialect in (("fed", ""), ("dec", "g30")):
        stored = services.store.tasks[task_id]
        stored.task = replace(stored.task, training=training, pinned_dialect=dialect)
    clients = ServiceClients.open(settings)
    transport = httpx.ASGITransport(app=create_app(settings, clients, registry=CollectorRegistry()))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as http:
        if remembered:
            await http.get(TASKS, headers=G21)
        answer = await http.get(TASKS, headers=AXIOS)
    await clients.close()
    rounds = {task["id"]: task["trainingInformation"]["roundDuration"] for task in answer.json()}
    assert rounds == {"fed": 7 if remembered else 2, "dec": 2}
    assert [task["taskID"] for task in answer.json()] == ["dec", "fed"]
    assert {task["trainingInformation"]["scheme"] for task in answer.json()} == {"decentralized", "federated"}
    expected = "*" if remembered else "Accept, User-Agent, Origin, X-Disco-Protocol"
    assert answer.headers["vary"].removesuffix(", Accept-Encoding") == expected
