"""Tasks and models over HTTP, against recorders of the services."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from disco.task.v1.task_pb2 import Model
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from gateway.app import create_app
from gateway.problems import problem_for
from gateway.service_clients import ServiceClients
from gateway.settings import GatewaySettings
from learning.refusals import WeightsNotFinite
from tests.gateway.conftest import LIMIT
from tests.gateway.recorders import TOPOLOGY, Services, weights_of
from tests.gateway.task_sources.files import WEIGHTS, document

TASK: dict[str, Any] = {
    "taskID": "pushed",
    "displayInformation": {"taskTitle": "Pushed"},
    "trainingInformation": {
        "modelID": "pushed-model",
        "epochs": 2,
        "roundDuration": 2,
        "validationSplit": 0.2,
        "batchSize": 4,
        "dataType": "tabular",
        "inputColumns": ["a", "b"],
        "outputColumns": ["c"],
        "scheme": "Federated",
        "modelCompileData": {"optimizer": "sgd", "loss": "meanSquaredError", "metrics": ["accuracy"]},
    },
}


def artifacts(value: float) -> bytes:
    """A model as a client of 2.1.1 packs it."""
    return msgspec.msgpack.encode(
        {
            "modelTopology": json.loads(TOPOLOGY),
            "weightSpecs": [
                {"name": "d/kernel", "shape": [2, 2], "dtype": "float32"},
                {"name": "d/bias", "shape": [2], "dtype": "float32"},
            ],
            "weightData": msgspec.msgpack.Ext(0x1A, weights_of(value)),
        }
    )


def assert_problem(answer: httpx.Response, status: int, reason: str) -> None:
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert (answer.status_code, document["status"], document["reason"]) == (status, status, reason)
    assert document["request_id"] == answer.headers["x-request-id"]
    assert document["title"]
    assert document["detail"]
    assert answer.headers["access-control-allow-origin"] == "*"


@pytest_asyncio.fixture
async def guarded(settings: GatewaySettings, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    """HTTP to a gateway whose policy on task creation is the parameter."""
    own = settings.model_copy(update={"task_creation": request.param, "task_token": SecretStr("letmein")})
    clients = ServiceClients.open(own)
    transport = httpx.ASGITransport(app=create_app(own, clients, registry=CollectorRegistry()))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
        yield client
    await clients.close()


# Reading.


@pytest.mark.parametrize(
    "path", ["/tasks", "/tasks/", "/v2.1/tasks", "/v2.1tasks", "/v3.0/tasks", "/v4/tasks/", "/TASKS"]
)
async def test_tasks_are_listed(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert [task.get("id", task.get("taskID")) for task in answer.json()] == ["dec", "fed"]


async def test_model_comes_in_the_words_of_the_generation_that_asks(http: httpx.AsyncClient) -> None:
    early = await http.get("/v2.1/tasks/fed/model.json")
    assert early.headers["content-type"] == "application/json"
    assert msgspec.msgpack.decode(bytes(early.json()))["weightData"].data == weights_of(0)
    later = await http.get("/v3.0/tasks/fed/model.json")
    assert later.headers["content-type"] == "application/octet-stream"
    assert msgspec.msgpack.decode(later.content)[1]["weightData"].data == weights_of(0)
    loadable = await http.get("/tfjs/fed/model.json")
    assert loadable.json()["weightsManifest"][0]["paths"] == ["weights.bin"]
    for path in ("/tfjs/fed/weights.bin", "/tasks/fed/weights.bin"):
        assert (await http.get(path)).content == weights_of(0)


async def test_model_that_a_generation_cannot_run_is_not_acceptable_to_it_and_to_no_other(
    http: httpx.AsyncClient, services: Services
) -> None:
    stored = services.store.tasks["fed"].model
    stored.kind, stored.topology_json = Model.KIND_GPT, b"{}"
    for path in ("/v2.1/tasks/fed/model.json", "/tfjs/fed/model.json"):
        assert_problem(await http.get(path), 406, "NOT_ACCEPTABLE")
    assert (await http.get("/v4/tasks/fed/model.json")).status_code == 200
    assert (await http.get("/v2.1/tasks/fed/weights.bin")).status_code == 200


async def test_newest_version_is_served(http: httpx.AsyncClient, services: Services) -> None:
    await http.get("/tasks/fed/weights.bin")
    await services.aggregator.publish("fed", weights_of(8.0))
    assert (await http.get("/tasks/fed/weights.bin")).content == weights_of(8.0)


async def test_model_that_is_known_is_not_sent_again(http: httpx.AsyncClient, services: Services) -> None:
    first = await http.get("/v2.1/tasks/fed/model.json")
    headers = {"If-None-Match": first.headers["etag"]}
    again = await http.get("/v2.1/tasks/fed/model.json", headers=headers)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert "User-Agent" in again.headers["vary"]
    other = await http.get("/v3.0/tasks/fed/model.json", headers=headers)
    assert other.status_code == 200
    await services.aggregator.publish("fed", weights_of(8.0))
    assert (await http.get("/v2.1/tasks/fed/model.json", headers=headers)).status_code == 200


async def test_what_was_known_is_served_while_the_services_are_away(
    http: httpx.AsyncClient, services: Services
) -> None:
    tasks = (await http.get("/tasks")).json()
    model = await http.get("/v2.1/tasks/fed/model.json")
    await services.stop()
    assert (await http.get("/tasks")).json() == tasks
    assert (await http.get("/v2.1/tasks/fed/model.json")).content == model.content
    unknown = await http.get("/v2.1/tasks/dec/model.json")
    assert_problem(unknown, 503, "STORE_UNAVAILABLE")
    assert unknown.headers["retry-after"] == "1"
    assert_problem(await http.get("/readyz"), 503, "STORE_UNAVAILABLE")
    assert (await http.get("/healthz")).status_code == 200
    await services.start()


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/tasks/unknown/model.json", 404, "TASK_NOT_FOUND"),
        ("/tasks/unknown/other.json", 404, "TASK_NOT_FOUND"),
        ("/tasks/fed/other.json", 404, "FILE_NOT_FOUND"),
        ("/tasks/bad%20id/model.json", 400, "INVALID_ID"),
        ("/tasks/%2e%2e/model.json", 400, "INVALID_ID"),
        ("/tasks/unknown", 404, "TASK_NOT_FOUND"),
        ("/nothing", 404, "NOT_FOUND"),
    ],
)
async def test_what_is_not_there_is_a_problem_document(
    http: httpx.AsyncClient, path: str, status: int, reason: str
) -> None:
    assert_problem(await http.get(path), status, reason)


# Creating.


@pytest.mark.parametrize("headers", [{"content-type": "application/json"}, {"content-type": "text/plain"}, {}])
async def test_task_is_created_whatever_the_content_type(
    http: httpx.AsyncClient, services: Services, headers: dict[str, str]
) -> None:
    body = {"task": TASK, "model": list(artifacts(3.0)), "weights": []}
    answer = await http.post("/tasks", content=json.dumps(body), headers=headers)
    assert (answer.status_code, answer.text) == (200, "Successful task upload")
    header, weights = services.tasks.created[0]
    assert (header.task.task_id, header.weights_size, weights) == ("pushed", 24, weights_of(3.0))
    assert header.model.training_config_json
    assert "pushed" in [task["id"] for task in (await http.get("/tasks")).json()]


@pytest.mark.parametrize("spelling", ["buffer", "indices", "kinded"])
async def test_task_is_created_from_every_spelling_of_a_model(
    http: httpx.AsyncClient, services: Services, spelling: str
) -> None:
    packed = artifacts(1.0)
    kinded = b"\x92\x00" + packed
    models: dict[str, object] = {
        "buffer": {"type": "Buffer", "data": list(kinded)},
        "indices": {str(index): byte for index, byte in enumerate(kinded)},
        "kinded": list(kinded),
    }
    answer = await http.post("/tasks/", content=json.dumps({"newTask": TASK, "model": models[spelling]}))
    assert answer.status_code == 200, answer.text
    assert services.tasks.created[0][1] == weights_of(1.0)


@pytest.mark.parametrize(
    ("said", "model", "weights", "pinned"),
    [
        ({}, list(artifacts(1.0)), [], "g21"),
        ({}, {"type": "Buffer", "data": list(b"\x92\x00" + artifacts(1.0))}, [], "g30"),
        ({}, list(b"\x92\x00" + artifacts(1.0)), [], ""),
        ({}, base64.b64encode(artifacts(1.0)).decode(), [], ""),
        ({"pinnedDialect": "gdv"}, list(artifacts(1.0)), [], "gdv"),
        ({"pinned_dialect": ""}, list(artifacts(1.0)), [], ""),
        ({"pinnedDialect": None}, list(artifacts(1.0)), [], ""),
    ],
)
async def test_task_is_pinned_to_the_generation_that_writes_such_bodies_unless_it_says_otherwise(
    http: httpx.AsyncClient, services: Services, said: dict[str, Any], model: Any, weights: Any, pinned: str
) -> None:
    body = {"task": TASK | said, "model": model, "weights": weights}
    assert (await http.post("/tasks", content=json.dumps(body))).status_code == 200
    assert services.tasks.created[0][0].task.pinned_dialect == pinned


async def test_task_that_is_pinned_to_what_nobody_speaks_is_refused(http: httpx.AsyncClient) -> None:
    body = {"task": TASK | {"pinnedDialect": "2.1"}, "model": list(artifacts(1.0))}
    answer = await http.post("/tasks", content=json.dumps(body))
    assert_problem(answer, 400, "INVALID_TASK")
    assert [error["path"] for error in answer.json()["errors"]] == ["pinned_dialect"]


async def test_task_that_exists_is_a_conflict(http: httpx.AsyncClient, services: Services) -> None:
    body = json.dumps({"task": {**TASK, "taskID": "fed"}, "model": list(artifacts(1.0))})
    assert_problem(await http.post("/tasks", content=body), 409, "TASK_ALREADY_EXISTS")
    assert services.tasks.created == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "MALFORMED_MESSAGE"),
        (b"{", "MALFORMED_MESSAGE"),
        (b"\xff\xfe", "MALFORMED_MESSAGE"),
        (b"[]", "MALFORMED_MESSAGE"),
        (b"[" * 200_000, "MALFORMED_MESSAGE"),
        (b'{"task":' + b"[" * 100 + b"]" * 100 + b"}", "MALFORMED_MESSAGE"),
        (b"{}", "INVALID_TASK"),
        (b'{"task": {}}', "INVALID_TASK"),
        (json.dumps({"task": TASK}).encode(), "INVALID_MODEL"),
        (json.dumps({"task": TASK, "model": [128]}).encode(), "INVALID_MODEL"),
        (b'{"task": 5, "model": [128]}', "INVALID_TASK"),
        (json.dumps({"task": 5, "model": list(artifacts(0))}).encode(), "INVALID_TASK"),
        (json.dumps({"task": {**TASK, "taskID": "../x"}, "model": list(artifacts(0))}).encode(), "INVALID_ID"),
    ],
)
async def test_bad_upload_is_answered_with_its_reason(
    http: httpx.AsyncClient, services: Services, body: bytes, reason: str
) -> None:
    assert_problem(await http.post("/tasks", content=body), 400, reason)
    assert services.tasks.created == []


@pytest.mark.parametrize(
    ("more", "path"),
    [({"taskID": "../x"}, "taskID"), ({"digest": {"algorithm": "sha256", "value": "00" * 32}}, "digest")],
)
async def test_whatever_is_wrong_with_a_task_has_its_json_path(
    http: httpx.AsyncClient, more: dict[str, Any], path: str
) -> None:
    files = [
        ("task", ("task.json", json.dumps({**TASK, **more}))),
        ("model", ("model.json", json.dumps(document()))),
        ("weights", ("group1-shard1of1.bin", WEIGHTS)),
    ]
    answer = await http.post("/tasks", files=files)
    assert answer.status_code == 400
    (problem,) = answer.json()["errors"]
    assert (problem["path"], problem["detail"]) == (path, answer.json()["detail"])


def test_weights_that_the_task_service_refuses_are_those_of_the_model() -> None:
    told = json.loads(bytes(problem_for(WeightsNotFinite(tensor="d/kernel")).body))
    assert told["errors"] == [{"path": "model", "detail": told["detail"]}]


async def test_upload_over_the_limit_is_refused_before_it_is_read(http: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 16
            yield b"x" * (1 << 16)

    assert_problem(await http.post("/tasks", content=endless()), 413, "TOO_LARGE")
    assert sent <= LIMIT + (2 << 16)
    announced = {"content-length": str(LIMIT + 1)}
    assert_problem(await http.post("/tasks", content=b"", headers=announced), 413, "TOO_LARGE")


@pytest.mark.parametrize("guarded", ["off"], indirect=True)
async def test_nobody_creates_tasks_where_it_is_turned_off(guarded: httpx.AsyncClient) -> None:
    headers = {"authorization": "Bearer letmein"}
    assert_problem(await guarded.post("/tasks", content=b"{}", headers=headers), 403, "TASK_CREATION_DENIED")


CROSSING: dict[str, dict[str, str]] = {
    "a proxy on this machine": {"x-forwarded-for": "203.0.113.5"},
    "a page of another site": {"origin": "https://evil.example"},
    "a sandboxed page": {"origin": "null", "content-type": "text/plain"},
    "a page behind a rebound name": {"host": "evil.example:8080", "origin": "http://evil.example:8080"},
}


@pytest.mark.parametrize("crossing", CROSSING.values(), ids=CROSSING)
async def test_others_do_not_create_tasks_on_the_gateway_of_a_developer(
    http: httpx.AsyncClient, services: Services, crossing: dict[str, str]
) -> None:
    body = json.dumps({"task": TASK, "model": list(artifacts(1.0))})
    answer = await http.post("/tasks", content=body, headers=crossing)
    assert_problem(answer, 403, "TASK_CREATION_DENIED")
    assert "DISCO_TASK_CREATION" in answer.json()["detail"]
    assert services.tasks.created == []
    assert (await http.get("/tasks", headers=crossing)).status_code == 200


@pytest.mark.parametrize("origin", ["http://localhost:8081", "http://127.0.0.1:8080"])
async def test_page_of_a_developer_creates_tasks_on_the_gateway_of_that_developer(
    http: httpx.AsyncClient, origin: str
) -> None:
    body = json.dumps({"task": TASK, "model": list(artifacts(1.0))})
    assert (await http.post("/tasks", content=body, headers={"origin": origin})).status_code == 200


@pytest.mark.parametrize("guarded", ["auto"], indirect=True)
async def test_others_create_tasks_with_the_token_if_there_is_one(guarded: httpx.AsyncClient) -> None:
    proxied = {"x-forwarded-for": "203.0.113.5"}
    assert_problem(await guarded.post("/tasks", content=b"{}", headers=proxied), 403, "TASK_CREATION_DENIED")
    proxied["authorization"] = "Bearer letmein"
    assert_problem(await guarded.post("/tasks", content=b"{}", headers=proxied), 400, "INVALID_TASK")
    assert_problem(await guarded.post("/tasks", content=b"{}"), 400, "INVALID_TASK")


@pytest.mark.parametrize("guarded", ["open"], indirect=True)
async def test_everybody_creates_tasks_where_somebody_said_so(guarded: httpx.AsyncClient) -> None:
    for crossing in CROSSING.values():
        assert_problem(await guarded.post("/tasks", content=b"{}", headers=crossing), 400, "INVALID_TASK")


@pytest.mark.parametrize("guarded", ["token"], indirect=True)
async def test_only_the_token_creates_tasks(guarded: httpx.AsyncClient) -> None:
    for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": "letmein"}, {"authorization": "Bearer ä"}):
        encoded = {name: value.encode() for name, value in given.items()}
        assert_problem(await guarded.post("/tasks", content=b"{}", headers=encoded), 403, "TASK_CREATION_DENIED")
    answer = await guarded.post("/tasks", content=b"{}", headers={"authorization": "Bearer letmein"})
    assert_problem(answer, 400, "INVALID_TASK")
