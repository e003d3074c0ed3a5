"""Rounds, versions, proofs and the key of receipts over HTTP, against recorders of the services."""

from __future__ import annotations

import hashlib

import httpx
import pytest

from gateway.http_history import FOR_GOOD
from tests.gateway.conftest import Running
from tests.gateway.recorders import Services, weights_of
from tests.gateway.test_http_tasks import assert_problem

DIGEST = "ab" * 32


@pytest.fixture(autouse=True)
def two_versions(services: Services) -> None:
    services.store.add("fed", version=2)


async def test_a_round_is_told_with_what_it_waits_for(http: httpx.AsyncClient, services: Services) -> None:
    answer = await http.get("/tasks/fed/round")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    document = answer.json()
    assert (document["task_id"], document["number"], document["version"]) == ("fed", 2, 2)
    assert (document["state"], document["waiting"], document["deadline"]) == ("collecting", "unspecified", None)
    assert document["policy"]["quorum_count"] is None
    assert {"waiting_sentence", "participants", "contributions", "contributions_needed"} <= document.keys()


async def test_a_round_of_peers_is_told_with_what_it_waits_for(http: httpx.AsyncClient) -> None:
    answer = await http.get("/tasks/dec/round")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert answer.json() == {
        "task_id": "dec",
        "number": 4,
        "waiting": "ready_peers",
        "waiting_sentence": "Round 4 waits for peers to be ready: 1 of at least 2; 3 are present.",
        "peers_present": 3,
        "peers_ready": 1,
        "min_peers": 2,
    }


async def test_refusals_are_listed_page_by_page(http: httpx.AsyncClient) -> None:
    answer = await http.get("/tasks/fed/refusals", params={"page_size": 2})
    first = answer.json()
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert first["refusals"][0] == {
        "participant_id": "alice",
        "round": 3,
        "reason": "ROUND_STALE",
        "sentence": "Round 0 is over.",
        "sha256": "00" * 32,
        "refuse_time": "2025-11-21T01:00:00Z",
    }
    last = (await http.get("/tasks/fed/refusals", params={"page_token": first["next_page_token"]})).json()
    assert ([each["round"] for each in last["refusals"]], last["next_page_token"]) == ([1], "")


async def test_versions_are_listed_page_by_page(http: httpx.AsyncClient) -> None:
    answer = await http.get("/tasks/fed/versions", params={"page_size": 2})
    first = answer.json()
    assert [version["number"] for version in first["versions"]] == [2, 1]
    assert first["versions"][0]["weights_sha256"] == hashlib.sha256(weights_of(2)).hexdigest()
    assert (first["versions"][0]["rule"], first["versions"][0]["restored_version"]) == ("mean", None)
    last = await http.get("/tasks/fed/versions", params={"page_token": first["next_page_token"]})
    assert [version["number"] for version in last.json()["versions"]] == [0]
    assert last.json()["next_page_token"] == ""
    assert answer.headers["cache-control"] == "no-cache"
    again = await http.get(
        "/tasks/fed/versions", params={"page_size": 2}, headers={"If-None-Match": answer.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


async def test_an_entry_is_passed_on_byte_for_byte_and_may_be_kept_for_good(
    http: httpx.AsyncClient, services: Services
) -> None:
    answer = await http.get("/tasks/fed/versions/1")
    assert answer.content == services.aggregator.entry
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(services.aggregator.entry))
    assert answer.headers["etag"] == f'"{hashlib.sha256(services.aggregator.entry).hexdigest()}"'
    assert answer.headers["cache-control"] == FOR_GOOD
    for known in (answer.headers["etag"], f'"x", W/{answer.headers["etag"]}', "*"):
        again = await http.get("/tasks/fed/versions/1", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")


async def test_weights_of_a_version_are_its_bytes(http: httpx.AsyncClient) -> None:
    for number in range(3):
        answer = await http.get(f"/tasks/fed/versions/{number}/weights.bin")
        assert answer.content == weights_of(number)
        assert answer.headers["etag"] == f'"{hashlib.sha256(weights_of(number)).hexdigest()}"'
        assert (answer.headers["content-type"], answer.headers["cache-control"]) == (
            "application/octet-stream",
            FOR_GOOD,
        )


async def test_a_proof_is_told_in_hex(http: httpx.AsyncClient) -> None:
    answer = await http.get("/tasks/fed/versions/1/proof", params={"digest": DIGEST.upper(), "participant": "bob"})
    assert answer.json() == {
        "version": 1,
        "receipt": {
            "task_id": "fed",
            "round": 0,
            "participant_id": "bob",
            "sha256": DIGEST,
            "weight": 4,
            "position": 1,
            "signature": "05" * 64,
            "key_id": "ab12",
        },
        "leaf": "03" * 32,
        "index": 1,
        "tree_size": 3,
        "path": ["01" * 32, "02" * 32],
        "root": "04" * 32,
    }
    assert answer.headers["cache-control"] == FOR_GOOD


async def test_the_key_is_told_as_json_and_as_pem(http: httpx.AsyncClient) -> None:
    document = (await http.get("/receipt-key")).json()
    assert document == {
        "key_id": "ab12",
        "algorithm": "Ed25519",
        "public_key": "00" * 32,
        "pem": "-----BEGIN PUBLIC KEY-----\n",
    }
    for path, headers in (("/receipt-key.pem", {}), ("/receipt-key", {"Accept": "application/x-pem-file"})):
        answer = await http.get(path, headers=headers)
        assert (answer.text, answer.headers["content-type"]) == (document["pem"], "application/x-pem-file")


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/tasks/nope/round", 404, "TASK_NOT_FOUND"),
        ("/tasks/nope/versions", 404, "TASK_NOT_FOUND"),
        ("/tasks/nope/versions/0", 404, "TASK_NOT_FOUND"),
        ("/tasks/fed/versions/3", 404, "VERSION_NOT_FOUND"),
        ("/tasks/fed/versions/3/weights.bin", 404, "VERSION_NOT_FOUND"),
        (f"/tasks/fed/versions/3/proof?digest={DIGEST}", 404, "VERSION_NOT_FOUND"),
        (f"/tasks/fed/versions/1/proof?digest={'ac' * 32}", 404, "NOT_IN_VERSION"),
        ("/tasks/fed/versions/1/proof", 422, "INVALID_REQUEST"),
        ("/tasks/fed/versions/1/proof?digest=ab", 422, "INVALID_REQUEST"),
        ("/tasks/fed/versions/one", 422, "INVALID_REQUEST"),
        ("/tasks/fed/versions/-1", 422, "INVALID_REQUEST"),
        (f"/tasks/fed/versions/{2**63}", 422, "INVALID_REQUEST"),
        ("/tasks/fed/versions?page_size=101", 422, "INVALID_REQUEST"),
        ("/tasks/fed/versions/1/elsewhere", 404, "NOT_FOUND"),
    ],
)
async def test_every_refusal_is_a_problem(http: httpx.AsyncClient, path: str, status: int, reason: str) -> None:
    assert_problem(await http.get(path), status, reason)


async def test_services_that_are_away_are_a_problem_of_theirs(
    http: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.http_history.ANSWER_WITHIN_S", 0.2)
    await services.stop()
    for path in ("/tasks/fed/round", "/tasks/fed/versions/1", "/receipt-key"):
        assert_problem(await http.get(path), 503, "STORE_UNAVAILABLE")
    await services.start()


async def test_an_entry_that_breaks_off_is_never_taken_for_whole(gateway: Running, services: Services) -> None:
    services.aggregator.entry_breaks = True
    async with httpx.AsyncClient(timeout=60) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"{gateway.url}/tasks/fed/versions/1")


async def test_the_routes_are_described_with_their_answers(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    one = "/tasks/{task_id}/versions/{version}"
    for path in ("/tasks/{task_id}/round", "/tasks/{task_id}/versions", one, f"{one}/weights.bin", f"{one}/proof"):
        described = paths[path]["get"]
        assert described["summary"]
        assert described["description"]
        assert {"200", "404"} <= described["responses"].keys()
    assert {"/receipt-key", "/receipt-key.pem"} <= paths.keys()
