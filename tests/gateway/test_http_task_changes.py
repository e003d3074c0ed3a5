"""One task over HTTP, created, read, changed and deleted: a gateway before a real task service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from starlette.datastructures import Address, Headers

from blobstore.directory import DirectoryBlobStore
from gateway.app import create_app
from gateway.service_clients import ServiceClients
from gateway.settings import GatewaySettings
from gateway.task_permission import MAX_ADDRESSES, MINUTE_S, TaskPermission
from learning.refusals import TooManyUploads
from roundstore.task_hints import MemoryTaskHints
from services.task_service.catalog import Catalog
from services.task_service.quotas import Quotas
from tests.gateway.task_sources.files import TASK as DOCUMENT
from tests.gateway.task_sources.files import document
from tests.gateway.test_http_tasks import assert_problem
from tests.services.task_service.replicas import LIMIT, serving
from tests.services.task_service.tasks import SPECS, model, task
from tests.services.task_service.test_full_disk import SmallDisk


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryBlobStore]:
    async with DirectoryBlobStore(tmp_path) as store:
        await Catalog(store, max_bytes=LIMIT).create(task(), model(*SPECS), None, request_id="", now=1.0)
        yield store


@asynccontextmanager
async def _opened(
    store: DirectoryBlobStore,
    settings: GatewaySettings,
    *,
    client: str = "127.0.0.1",
    quotas: Quotas | None = None,
    **changed: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(store, MemoryTaskHints(), quotas=quotas) as address:
        own = settings.model_copy(update={"task_service_address": address, **changed})
        clients = ServiceClients.open(own)
        app = create_app(own, clients, registry=CollectorRegistry())
        transport = httpx.ASGITransport(app=app, client=(client, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as http:
            yield http
        await clients.close()


@pytest_asyncio.fixture
async def http(store: DirectoryBlobStore, settings: GatewaySettings) -> AsyncIterator[httpx.AsyncClient]:
    async with _opened(store, settings, task_creation="auto") as http:
        yield http


async def test_a_task_is_read_replaced_and_read_again(http: httpx.AsyncClient) -> None:
    read = await http.get("/tasks/small")
    assert (read.status_code, read.headers["etag"]) == (200, '"1"')
    document = read.json()
    assert (document["taskId"], document["revision"]) == ("small", "1")
    document["display"]["title"] = "Another title"
    written = await http.put("/tasks/small", json=document, headers={"If-Match": '"1"'})
    assert (written.status_code, written.headers["etag"]) == (200, '"2"')
    again = await http.get("/tasks/small")
    assert again.json() == written.json() == {**document, "revision": "2"}
    listed = (await http.get("/v4/tasks")).json()
    assert "Another title" in str(listed)


async def test_a_patch_changes_what_it_names_and_nothing_else(http: httpx.AsyncClient) -> None:
    before = (await http.get("/tasks/small")).json()
    patch = {"display": {"preview": "One sentence.", "title": "T"}, "training": {"batch_size": 9}}
    first = await http.patch("/tasks/small", json=patch)
    assert first.json() == {
        **before,
        "revision": "2",
        "display": {**before["display"], "preview": "One sentence.", "title": "T"},
        "training": {**before["training"], "batchSize": 9},
    }
    second = await http.patch("/tasks/small", json={"display": {"preview": None}})
    assert "preview" not in second.json()["display"]


async def test_the_pin_of_a_task_is_shown_and_changed(http: httpx.AsyncClient) -> None:
    axios = {"accept": "application/json, text/plain, */*"}
    assert "pinnedDialect" not in (await http.get("/tasks/small")).json()
    changed = await http.patch("/tasks/small", json={"pinnedDialect": "g21"})
    assert (changed.status_code, changed.json()["pinnedDialect"]) == (200, "g21")
    assert (await http.get("/tasks/small")).json()["pinnedDialect"] == "g21"
    assert (await http.get("/tasks/small/model.json", headers=axios)).headers["content-type"] == "application/json"
    assert "pinnedDialect" not in (await http.patch("/tasks/small", json={"pinned_dialect": None})).json()
    model = await http.get("/tasks/small/model.json", headers=axios)
    assert model.headers["content-type"] == "application/octet-stream"
    refused = await http.patch("/tasks/small", json={"pinnedDialect": "tfjs"})
    assert_problem(refused, 400, "INVALID_TASK")


async def test_patches_at_once_are_all_made(http: httpx.AsyncClient) -> None:
    names = ["preview", "overview", "tradeoffs"]
    patches = [http.patch("/tasks/small", json={"display": {name: name}}) for name in names]
    assert [answer.status_code for answer in await asyncio.gather(*patches)] == [200, 200, 200]
    display = (await http.get("/tasks/small")).json()["display"]
    assert [display[name] for name in names] == names


async def test_a_change_of_what_was_changed_since_is_refused(http: httpx.AsyncClient) -> None:
    await http.patch("/tasks/small", json={"display": {"title": "T"}})
    stale = {"If-Match": '"1"'}
    for answer in (
        await http.put("/tasks/small", json=(await http.get("/tasks/small")).json(), headers=stale),
        await http.patch("/tasks/small", json={"display": {"title": "U"}}, headers=stale),
        await http.delete("/tasks/small", headers=stale),
    ):
        assert_problem(answer, 412, "TASK_CHANGED")
        assert (answer.json()["expected"], answer.json()["revision"]) == ("1", "2")
    assert_problem(await http.delete("/tasks/small", headers={"If-Match": "W/2"}), 400, "MALFORMED_MESSAGE")


@pytest.mark.parametrize(
    ("patch", "status", "reason", "field"),
    [
        ({"training": {"labels": ["a"]}}, 409, "TASK_FIELD_FIXED", "training.labels"),
        ({"scheme": "SCHEME_LOCAL"}, 409, "TASK_FIELD_FIXED", "scheme"),
        ({"policy": {"minParticipants": 9}}, 409, "TASK_FIELD_FIXED", "policy"),
        ({"training": {"epochs": 0}}, 400, "INVALID_TASK", "training.epochs"),
        ({"training": {"epochs": "many"}}, 400, "INVALID_TASK", "training.epochs"),
        ({"display": {"title": None}}, 400, "INVALID_TASK", "display.title"),
        ({"unheardOf": 1}, 400, "INVALID_TASK", "task"),
        ({"taskId": "other"}, 400, "INVALID_TASK", "taskId"),
    ],
)
async def test_what_cannot_be_changed_is_refused_with_its_field(
    http: httpx.AsyncClient, patch: dict[str, Any], status: int, reason: str, field: str
) -> None:
    before = (await http.get("/tasks/small")).json()
    answer = await http.patch("/tasks/small", json=patch)
    assert_problem(answer, status, reason)
    assert answer.json()["field"] == field
    assert (await http.get("/tasks/small")).json() == before


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"display":' + b"[" * 100 + b"]" * 100 + b"}"])
async def test_a_body_that_is_no_document_is_refused(http: httpx.AsyncClient, body: bytes) -> None:
    for method in ("PUT", "PATCH"):
        answer = await http.request(method, "/tasks/small", content=body)
        assert_problem(answer, 400, "MALFORMED_MESSAGE")


async def test_a_deleted_task_is_gone_at_once(http: httpx.AsyncClient) -> None:
    assert (await http.get("/tasks")).json() != []
    deleted = await http.delete("/tasks/small")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await http.get("/tasks")).json() == []
    for path in ("/tasks/small", "/tasks/small/model.json", "/tasks/small/weights.bin"):
        assert_problem(await http.get(path), 404, "TASK_NOT_FOUND")
    for method in ("PATCH", "DELETE"):
        assert_problem(await http.request(method, "/tasks/small", json={}), 404, "TASK_NOT_FOUND")
    assert_problem(await http.delete("/tasks/never"), 404, "TASK_NOT_FOUND")
    assert_problem(await http.delete("/tasks/not%20an%20id"), 400, "INVALID_ID")


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"host": "evil.example:8080"}, {"x-forwarded-for": "127.0.0.1"}],
    ids=["a page of another site", "a name of the attacker's", "a proxy"],
)
async def test_what_only_this_machine_may_do_pages_of_other_sites_may_not(
    http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    # What should happen: the same refusal as for creating a task, whatever the method; reading stays open to all.
    for method in ("PUT", "PATCH", "DELETE", "POST"):
        path = "/tasks" if method == "POST" else "/tasks/small"
        answer = await http.request(method, path, json={"display": {"title": "T"}}, headers=headers)
        assert_problem(answer, 403, "TASK_CREATION_DENIED")
    assert (await http.get("/tasks/small", headers=headers)).headers["etag"] == '"1"'


async def test_changing_needs_the_token_where_creating_does(
    store: DirectoryBlobStore, settings: GatewaySettings
) -> None:
    async with _opened(store, settings, task_creation="token", task_token=SecretStr("letmein")) as http:
        patch = {"display": {"title": "T"}}
        assert_problem(await http.patch("/tasks/small", json=patch), 403, "TASK_CREATION_DENIED")
        assert_problem(await http.delete("/tasks/small"), 403, "TASK_CREATION_DENIED")
        given = {"authorization": "Bearer letmein"}
        assert (await http.patch("/tasks/small", json=patch, headers=given)).status_code == 200
        assert (await http.delete("/tasks/small", headers=given)).status_code == 204


async def test_nobody_changes_anything_where_creating_is_off(
    store: DirectoryBlobStore, settings: GatewaySettings
) -> None:
    async with _opened(store, settings, task_creation="off") as http:
        for method in ("PUT", "PATCH", "DELETE"):
            answer = await http.request(method, "/tasks/small", json={})
            assert_problem(answer, 403, "TASK_CREATION_DENIED")
            assert "turned off (DISCO_TASK_CREATION=off)" in answer.json()["detail"]


async def test_who_is_denied_because_nobody_said_who_may_is_told_what_to_set(
    store: DirectoryBlobStore, settings: GatewaySettings
) -> None:
    async with _opened(store, settings, task_creation="auto", gateway_host="0.0.0.0") as http:
        answer = await http.delete("/tasks/small")
        assert_problem(answer, 403, "TASK_CREATION_DENIED")
        assert "sets DISCO_TASK_TOKEN" in answer.json()["detail"]


async def test_one_upload_more_than_a_minute_allows_is_told_when_to_come_back(
    store: DirectoryBlobStore, settings: GatewaySettings
) -> None:
    # What should happen: every way of changing something counts; those who are denied anyway do not, nor do readers.
    async with _opened(store, settings, task_creation="auto", uploads_per_minute=2) as http:
        for _ in range(3):
            assert (await http.post("/tasks", headers={"origin": "https://evil.example"})).status_code == 403
            assert (await http.get("/tasks/small")).status_code == 200
        assert (await http.patch("/tasks/small", json={"display": {"title": "T"}})).status_code == 200
        assert (await http.post("/tasks", content=b"{")).status_code == 400
        for answer in (await http.delete("/tasks/small"), await http.post("/tasks", content=b"{}")):
            assert_problem(answer, 429, "TOO_MANY_UPLOADS")
            assert 0 < int(answer.headers["retry-after"]) <= 60
            assert answer.json()["limit"] == "2"
        assert (await http.get("/tasks/small")).status_code == 200


class _Request:
    def __init__(self, host: str, **headers: str) -> None:
        self.client = Address(host, 1234)
        self.headers = Headers(headers)


def _permission(settings: GatewaySettings, now: list[float], **changed: Any) -> TaskPermission:
    own = settings.model_copy(update={"task_creation": "open", **changed})
    return TaskPermission(own, clock=lambda: now[0])


def test_addresses_are_counted_apart_and_a_minute_later_anew(settings: GatewaySettings) -> None:
    now = [0.0]
    permission = _permission(settings, now, uploads_per_minute=1)
    permission.check(_Request("192.0.2.1"))  # type: ignore[arg-type]
    permission.check(_Request("192.0.2.2"))  # type: ignore[arg-type]
    now[0] = MINUTE_S - 0.5
    with pytest.raises(TooManyUploads) as refused:
        permission.check(_Request("192.0.2.1"))  # type: ignore[arg-type]
    assert refused.value.variables == {"limit": "1", "seconds": "1"}
    now[0] = MINUTE_S
    permission.check(_Request("192.0.2.1"))  # type: ignore[arg-type]


def test_one_network_of_ipv6_counts_as_one_address(settings: GatewaySettings) -> None:
    permission = _permission(settings, [0.0], uploads_per_minute=1)
    permission.check(_Request("2001:db8::1"))  # type: ignore[arg-type]
    permission.check(_Request("2001:db8:0:1::1"))  # type: ignore[arg-type]
    with pytest.raises(TooManyUploads):
        permission.check(_Request("2001:db8::2"))  # type: ignore[arg-type]


def test_who_is_asked_for_counts_only_behind_a_proxy_that_is_trusted(settings: GatewaySettings) -> None:
    # What should happen: of a header that anybody can send, nothing is believed; of a proxy's, its own entry alone.
    ignoring = _permission(settings, [0.0], uploads_per_minute=1)
    ignoring.check(_Request("192.0.2.9", **{"x-forwarded-for": "192.0.2.1"}))  # type: ignore[arg-type]
    with pytest.raises(TooManyUploads):
        ignoring.check(_Request("192.0.2.9", **{"x-forwarded-for": "192.0.2.2"}))  # type: ignore[arg-type]
    trusting = _permission(settings, [0.0], uploads_per_minute=1, forwarded_for="trusted")
    trusting.check(_Request("192.0.2.9", **{"x-forwarded-for": "10.0.0.1, 192.0.2.1"}))  # type: ignore[arg-type]
    trusting.check(_Request("192.0.2.9", **{"x-forwarded-for": "10.0.0.1, 192.0.2.2"}))  # type: ignore[arg-type]
    with pytest.raises(TooManyUploads):
        trusting.check(_Request("192.0.2.9", **{"x-forwarded-for": "10.0.0.2, 192.0.2.1"}))  # type: ignore[arg-type]


def test_what_is_remembered_of_addresses_is_bounded(settings: GatewaySettings) -> None:
    permission = _permission(settings, [0.0], uploads_per_minute=1)
    for number in range(MAX_ADDRESSES + 1):
        permission.check(_Request(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))  # type: ignore[arg-type]
    permission.check(_Request("10.0.0.0"))  # type: ignore[arg-type]


# Creating


def upload(value: float) -> list[tuple[str, tuple[str, bytes]]]:
    """A form with a task and its model, all of whose weights have this value."""
    weights = np.full(10, value, "<f4").tobytes()
    return [
        ("task", ("task.json", json.dumps(DOCUMENT).encode())),
        ("model", ("model.json", json.dumps(document()).encode())),
        ("weights", ("group1-shard1of1.bin", weights)),
    ]


async def test_of_uploads_of_one_id_at_once_one_wins_and_is_whole(
    http: httpx.AsyncClient, store: DirectoryBlobStore
) -> None:
    # What should happen: the others are told that there is one; nothing of what they sent is kept.
    answers = await asyncio.gather(*(http.post("/tasks", files=upload(value)) for value in range(6)))
    (won,) = [value for value, answer in enumerate(answers) if answer.status_code == 200]
    for value, answer in enumerate(answers):
        if value != won:
            assert_problem(answer, 409, "TASK_ALREADY_EXISTS")
    served = await http.get("/tfjs/wine/weights.bin")
    assert served.content == np.full(10, won, "<f4").tobytes()
    assert len(await store.list("tasks/wine")) == 3
    assert await store.list("creations") == []


async def test_an_upload_for_which_the_disk_has_no_room_is_told_so_and_leaves_nothing(
    tmp_path: Path, settings: GatewaySettings
) -> None:
    # What should happen: 507 at once, whether it is the weights that do not fit or the model; with room, it is created.
    async with SmallDisk(tmp_path) as store, _opened(store, settings, task_creation="auto") as http:
        for store.room in (39, 100):
            assert_problem(await http.post("/tasks", files=upload(1)), 507, "STORAGE_FULL")
            assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
        store.room = 1 << 30
        assert (await http.post("/tasks", files=upload(1))).status_code == 200


async def test_uploads_at_once_for_the_last_room_are_one_task_and_refusals(
    store: DirectoryBlobStore, settings: GatewaySettings
) -> None:
    async with _opened(store, settings, quotas=Quotas(store, max_tasks=3), task_creation="auto") as http:

        def named(task_id: str) -> list[tuple[str, tuple[str, bytes]]]:
            described = json.dumps({**DOCUMENT, "id": task_id}).encode()
            return [("task", ("task.json", described)), *upload(1)[1:]]

        answers = await asyncio.gather(*(http.post("/tasks", files=named(f"t{n}")) for n in range(6)))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 507, 507, 507, 507]
        for answer in answers:
            if answer.status_code == 507:
                assert_problem(answer, 507, "QUOTA_EXCEEDED")
