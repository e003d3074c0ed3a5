"""What every HTTP answer has in common: greetings, health, CORS, request ids, problems."""

from __future__ import annotations

import httpx
import pytest
import structlog

from tests.gateway.test_http_tasks import assert_problem


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/v2.1/", "Server for DeAI & FeAI \n"),
        ("/v2.1/feai", "FeAI Server\n"),
        ("/v2.1/deai/", "DeAI Server\n"),
        ("/v3.0/feai/", "Disco Federated Server\n"),
        ("/v2.2/deai", "Disco Decentralized Server\n"),
        ("/v4/", "The DISCO Server\n"),
        ("/v4/federated", "Disco federated server \n"),
        ("/", "The DISCO Server\n"),
        ("/feai", "Disco Federated Server\n"),
        ("/decentralized/", "Disco decentralized server \n"),
    ],
)
async def test_each_generation_is_greeted_as_by_its_own_server(http: httpx.AsyncClient, path: str, text: str) -> None:
    answer = await http.get(path)
    assert (answer.status_code, answer.text) == (200, text)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


async def test_route_of_another_generation_is_not_there(http: httpx.AsyncClient) -> None:
    assert_problem(await http.get("/v4/feai"), 404, "NOT_FOUND")


async def test_gateway_is_ready_while_every_service_answers(http: httpx.AsyncClient) -> None:
    answer = await http.get("/readyz")
    assert answer.json() == {"ready": True, "services": {"task service": True, "aggregator": True, "signaling": True}}


async def test_every_origin_may_read_every_answer(http: httpx.AsyncClient) -> None:
    headers = {
        "origin": "https://example.org",
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    preflight = await http.options("/tasks", headers=headers)
    assert (preflight.status_code, preflight.content) == (204, b"")
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert preflight.headers["access-control-allow-headers"] == "content-type"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert (await http.get("/tasks")).headers["access-control-allow-origin"] == "*"


async def test_request_id_is_taken_from_the_caller_if_it_is_one(http: httpx.AsyncClient) -> None:
    named = await http.get("/healthz", headers={"x-request-id": "mine-1"})
    assert named.headers["x-request-id"] == "mine-1"
    strange = await http.get("/healthz", headers={"x-request-id": "no good"})
    assert strange.headers["x-request-id"] not in ("", "no good")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/tasks", "GET, HEAD, OPTIONS, POST"),
        ("PUT", "/v2.1/tasks/", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/tasks/fed/model.json", "GET, HEAD, OPTIONS"),
        ("POST", "/readyz", "GET, HEAD, OPTIONS"),
    ],
)
async def test_wrong_method_is_a_problem_document_that_names_the_right_ones(
    http: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    answer = await http.request(method, path)
    assert_problem(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == allowed
    for name in allowed.split(", "):
        assert (await http.request(name, path)).status_code != 405


async def test_head_is_answered_like_get(http: httpx.AsyncClient) -> None:
    answer = await http.head("/tasks")
    assert answer.status_code == 200


async def test_bug_is_a_problem_document_that_says_nothing_of_itself(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("gateway.http_tasks.msgspec.json.encode", break_down)
    with structlog.testing.capture_logs() as logged:
        answer = await http.get("/tasks")
    assert [(line["event"], line["path"]) for line in logged] == [("request.failed", "/tasks")]
    assert_problem(answer, 500, "INTERNAL")
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] in answer.json()["detail"]


async def test_routes_are_described(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    assert {"/tasks", "/tasks/{task_id}/{file}", "/healthz", "/readyz"} <= paths.keys()
    assert (await http.get("/docs")).status_code == 200
