"""Tasks that are offered in parts or by URL, and answers that name everything that is wrong."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.task_sources.fork_request import ForkWish, read_fork
from learning.refusals import InvalidTask
from tests.gateway.recorders import Services, weights_of
from tests.gateway.task_sources.file_server import FileServer
from tests.gateway.task_sources.files import SPECS, TASK, WEIGHTS, document
from tests.gateway.test_http_tasks import artifacts
from tests.gateway.test_main import free_port, start
from tests.waiting import eventually

File = tuple[str, tuple[str | None, bytes]]
HERE = pytest.mark.parametrize("settings", [{"fetch_networks": "127.0.0.0/8"}], indirect=True)


def parts(model: dict[str, Any] | None, *files: tuple[str, bytes], task: dict[str, Any] | None = None) -> list[File]:
    """The parts of a form; the task first, then the model, then its shards."""
    found: list[File] = [("task", (None, json.dumps(task or TASK).encode()))]
    if model is not None:
        found.append(("model", ("model.json", json.dumps(model).encode())))
    return found + [("weights", (name, data)) for name, data in files]


async def errors(http: httpx.AsyncClient, files: list[File]) -> dict[str, str]:
    answer = await http.post("/tasks", files=files)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    return {error["path"]: error["detail"] for error in answer.json()["errors"]}


async def test_task_with_a_model_and_two_shards_in_any_order_is_created(
    http: httpx.AsyncClient, services: Services
) -> None:
    model = document([{"paths": ["w/1.bin", "./2.bin"], "weights": SPECS}])
    for task_id, step in (("wine", 1), ("again", -1)):
        files = parts(model, ("2.bin", WEIGHTS[7:]), ("1.bin", WEIGHTS[:7]), task={**TASK, "id": task_id})
        answer = await http.post("/tasks", files=files[::step])
        assert (answer.status_code, answer.text) == (200, "Successful task upload")
    (header, weights), second = services.tasks.created
    assert (header.task.task_id, header.task.training.round_duration_epochs) == ("wine", 2)
    assert [(spec.name, list(spec.shape)) for spec in header.model.weight_specs] == [
        ("out/kernel", [4, 2]),
        ("out/bias", [2]),
    ]
    assert json.loads(header.model.training_config_json)["loss"] == "meanSquaredError"
    assert (weights, second[1]) == (WEIGHTS, WEIGHTS)


async def test_model_without_shards_leaves_its_weights_to_the_server(
    http: httpx.AsyncClient, services: Services
) -> None:
    answer = await http.post("/tasks", files=parts(document([])))
    assert answer.status_code == 200
    assert services.tasks.created[0][1] == b""


async def test_what_tfjs_itself_calls_its_parts_is_understood(http: httpx.AsyncClient, services: Services) -> None:
    model = document([{"paths": ["./model.weights.bin"], "weights": SPECS}])
    files = [
        ("task", ("task.json", json.dumps(TASK).encode())),
        ("model.json", ("model.json", json.dumps(model).encode())),
        ("model.weights.bin", ("model.weights.bin", WEIGHTS)),
    ]
    assert (await http.post("/tasks", files=files)).status_code == 200
    assert services.tasks.created[0][1] == WEIGHTS


async def test_model_as_a_client_encodes_it_may_be_a_part(http: httpx.AsyncClient, services: Services) -> None:
    files = [*parts(None), ("model", ("model", artifacts(2.0)))]
    assert (await http.post("/tasks", files=files)).status_code == 200
    assert len(services.tasks.created[0][1]) == 24


async def test_file_of_keras_is_handed_to_the_task_service(http: httpx.AsyncClient, services: Services) -> None:
    files = [*parts(None), ("model", ("my.KERAS", b"PK" * 300_000))]
    assert (await http.post("/tasks", files=files)).status_code == 200
    ((header, received),) = services.tasks.created
    assert (header.model_file, header.weights_size, received) == ("my.KERAS", 600_000, b"PK" * 300_000)


async def test_digest_of_the_task_is_checked_over_the_shards(http: httpx.AsyncClient, services: Services) -> None:
    files = [("group1-shard1of1.bin", WEIGHTS)]
    good = {**TASK, "digest": {"algorithm": "sha256", "value": hashlib.sha256(WEIGHTS).hexdigest()}}
    bad = {**TASK, "digest": {"algorithm": "sha256", "value": "00" * 32}}
    assert (await http.post("/tasks", files=parts(document(), *files, task=good))).status_code == 200
    answer = await http.post("/tasks", files=parts(document(), *files, task=bad))
    assert (answer.status_code, answer.json()["reason"]) == (400, "DIGEST_MISMATCH")
    assert len(services.tasks.created) == 1


async def test_digest_of_the_task_is_checked_over_the_weights_that_a_client_encodes(
    http: httpx.AsyncClient, services: Services
) -> None:
    packed = artifacts(2.0)
    for task_id, digest in (("right", hashlib.sha512(weights_of(2.0))), ("wrong", hashlib.sha512(packed))):
        value = base64.b64encode(digest.digest()).decode()
        task = {**TASK, "id": task_id, "digest": {"algorithm": "RSA-SHA512", "value": value}}
        answers = [
            await http.post("/tasks", json={"task": task, "model": list(packed)}),
            await http.post("/tasks", files=[*parts(None, task={**task, "id": "f"}), ("model", ("model", packed))]),
        ]
        if task_id == "right":
            assert [answer.status_code for answer in answers] == [200, 200]
            continue
        for answer in answers:
            assert (answer.status_code, answer.json()["reason"]) == (400, "DIGEST_MISMATCH")
            assert [error["path"] for error in answer.json()["errors"]] == ["digest"]
    assert [header.task.task_id for header, _ in services.tasks.created] == ["right", "f"]


async def test_digest_of_the_task_goes_with_a_file_that_the_task_service_converts(
    http: httpx.AsyncClient, services: Services
) -> None:
    value = hashlib.sha384(b"weights").digest()
    task = {**TASK, "digest": {"algorithm": "sha384", "value": value.hex()}}
    files = [*parts(None, task=task), ("model", ("m.keras", b"PK"))]
    assert (await http.post("/tasks", files=files)).status_code == 200
    files = [*parts(None, task={**TASK, "id": "without"}), ("model", ("m.keras", b"PK"))]
    assert (await http.post("/tasks", files=files)).status_code == 200
    (announced, _), (without, _) = services.tasks.created
    assert (announced.weights_digest.algorithm, announced.weights_digest.value) == ("sha384", value)
    assert not without.HasField("weights_digest")


@pytest.mark.parametrize("model", ["listed", "no manifest", "keras", "encoded"])
async def test_shard_that_is_not_listed_is_refused_by_the_name_of_its_part(
    http: httpx.AsyncClient, services: Services, model: str
) -> None:
    files = {
        "listed": parts(document(), ("group1-shard1of1.bin", WEIGHTS)),
        "no manifest": parts(document([])),
        "keras": [*parts(None), ("model", ("m.keras", b"PK"))],
        "encoded": [*parts(None), ("model", ("model", artifacts(2.0)))],
    }[model]
    extra = ("more", ("group1-shard2of2.bin", b"\0" * 8))
    found = await errors(http, [*files, extra])
    assert found == {"more": "'group1-shard2of2.bin' is no shard that the model lists, or came twice"}
    broken = ("task", (None, json.dumps({**TASK, "trainingInformation": {}}).encode()))
    assert {"more", "trainingInformation.epochs"} <= (await errors(http, [broken, *files[1:], extra])).keys()
    assert services.tasks.created == []


async def test_everything_that_is_wrong_is_listed_with_its_path(http: httpx.AsyncClient, services: Services) -> None:
    task = {**TASK, "trainingInformation": {"dataType": "tabular", "epochs": 0, "scheme": "odd"}}
    found = await errors(http, parts(document(), task=task))
    assert found == {
        "trainingInformation.scheme": "is not federated, decentralized or local",
        "trainingInformation.epochs": "must be at least 1",
        "trainingInformation.batchSize": "is missing",
        "trainingInformation.inputColumns": "are required for tabular data",
        "trainingInformation.outputColumns": "are required for tabular data",
        "model": "its shards are missing: group1-shard1of1.bin",
    }
    body = json.dumps({"task": task, "model": [128]})
    answer = await http.post("/tasks", content=body)
    assert {error["path"] for error in answer.json()["errors"]} == set(found)
    assert services.tasks.created == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([("model", ("model.json", b"{}"))], {"task": "is missing"}),
        (parts({}) + parts({})[:1], {"task": "is there twice"}),
        (parts(None), {"model": "it is missing"}),
        (parts(document()) + parts(document())[1:], {"model": "it is there twice"}),
        (parts({"format": "graph-model"}), {"model": "it is a GraphModel"}),
        (parts(document([{"paths": ["../../etc/passwd"], "weights": []}])), {"model": "no name for a shard"}),
        (parts(document(), ("group1-shard1of1.bin", WEIGHTS[1:])), {"model": "have 39 bytes, its weights have 40"}),
        ([*parts(None), ("model", ("m.onnx", b"PK"))], {"model": "'m.onnx' cannot be read; send model.json"}),
        ([*parts(None), ("model", ("m", b"\x80"))], {"model": "it has no topology"}),
        ([*parts(None), ("model", ("model.json", b"{"))], {"model": "is not JSON"}),
    ],
)
async def test_bad_form_is_refused_with_the_path_of_what_is_wrong(
    http: httpx.AsyncClient, services: Services, files: list[File], expected: dict[str, str]
) -> None:
    found = await errors(http, files)
    assert found.keys() == expected.keys()
    assert all(detail in found[path] for path, detail in expected.items()), found
    assert services.tasks.created == []


@pytest.mark.parametrize(
    ("body", "kind", "sentence"),
    [
        (b"", "multipart/form-data", "names no boundary"),
        (b"", "multipart/form-data; boundary=x", "ends before its last boundary"),
        (b"--x\r\n\r\nnothing\r\n--x--\r\n", "multipart/form-data; boundary=x", "a part has no name"),
        (b"--x\r\nA: " + b"a" * 99999, "multipart/form-data; boundary=x", "cannot be told apart"),
        (b'--x\r\nContent-Disposition: form-data; name="task"\r\n\r\n{', "multipart/form-data; boundary=x", "ends"),
        (
            b'--x\r\nContent-Disposition: form-data; name="w"\r\n\r\n\r\n' * 5000 + b"--x--\r\n",
            "multipart/form-data; boundary=x",
            "more than 4100 parts",
        ),
    ],
)
async def test_form_that_is_none_is_refused(http: httpx.AsyncClient, body: bytes, kind: str, sentence: str) -> None:
    answer = await http.post("/tasks", content=body, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["reason"]) == (400, "MALFORMED_MESSAGE")
    assert sentence in answer.json()["detail"]


async def test_full_disk_is_said_and_nothing_is_created(
    http: httpx.AsyncClient, services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        answer = await http.post("/tasks", files=parts(document()))
    assert (answer.status_code, answer.json()["reason"]) == (507, "STORAGE_FULL")
    assert (services.tasks.created, list(tmp_path.iterdir())) == ([], [])


async def test_nothing_stays_on_the_disk(
    http: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    await http.post("/tasks", files=parts(document(), ("group1-shard1of1.bin", WEIGHTS)))
    await http.post("/tasks", files=parts(document()))
    assert list(tmp_path.iterdir()) == []


async def test_large_form_is_never_held_in_memory(services: Services, tmp_path: Path) -> None:
    size = 64 << 20
    model = document([{"paths": ["w"], "weights": [{"name": "w", "shape": [size // 4], "dtype": "float32"}]}])
    (tmp_path / "w").write_bytes(bytes(size))
    port = free_port()
    process = await start(services, port)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

            async def is_ready() -> bool:
                try:
                    return (await client.get("/readyz")).status_code == 200
                except httpx.ConnectError:
                    return False

            await eventually(is_ready, 30)
            await client.post("/tasks", files=parts(document(), ("group1-shard1of1.bin", WEIGHTS)))
            before = peak_bytes(process.pid)
            with (tmp_path / "w").open("rb") as shard:
                task = ("task", (None, json.dumps({**TASK, "id": "large"}).encode()))
                described = ("model", ("model.json", json.dumps(model).encode()))
                answer = await client.post("/tasks", files=[task, described, ("weights", ("w", shard))])
            grown = peak_bytes(process.pid) - before
    finally:
        process.terminate()
        await process.communicate()
    assert answer.status_code == 200, answer.text
    assert len(services.tasks.created[1][1]) == size
    assert grown < 4 << 20


def peak_bytes(process_id: int) -> int:
    """The most memory that a process has ever held."""
    (line,) = [line for line in Path(f"/proc/{process_id}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@HERE
async def test_model_at_a_url_is_fetched(http: httpx.AsyncClient, services: Services) -> None:
    server = FileServer()
    server.pages["/m/model.json"] = json.dumps(document()).encode()
    server.pages["/m/group1-shard1of1.bin"] = WEIGHTS
    async with server.running() as url:
        training = {**TASK["trainingInformation"], "modelURL": f"{url}/m/model.json"}
        task = {**TASK, "trainingInformation": training}
        assert (await http.post("/tasks", json={"task": task})).status_code == 200
        assert (await http.post("/tasks", files=parts(None, task={**task, "id": "again"}))).status_code == 200
        training["modelURL"] = f"{url}/none"
        found = await errors(http, parts(None, task=task))
        asked = len(server.requests)
        training["epochs"] = 0
        assert await errors(http, parts(None, task=task)) == {"trainingInformation.epochs": "must be at least 1"}
    assert [weights for _, weights in services.tasks.created] == [WEIGHTS, WEIGHTS]
    assert found == {"trainingInformation.modelURL": f"{url}/none answered with status 404"}
    assert len(server.requests) == asked


async def test_url_that_is_not_public_is_refused_unless_it_is_named(http: httpx.AsyncClient) -> None:
    server = FileServer()
    async with server.running() as url:
        task = {**TASK, "trainingInformation": {**TASK["trainingInformation"], "modelURL": f"{url}/model.json"}}
        found = await errors(http, parts(None, task=task))
    assert "not public" in found["trainingInformation.modelURL"]
    assert server.requests == []


async def test_task_is_forked_with_post_alone(http: httpx.AsyncClient) -> None:
    answer = await http.get("/tasks/fed/fork")
    assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")
    answer = await http.post("/tasks/fed/fork", json={"id": 5, "title": [], "version": -1})
    assert [error["path"] for error in answer.json()["errors"]] == ["id", "title", "version"]
    answer = await http.post("/tasks/fed/fork", content=b"[]")
    assert [error["path"] for error in answer.json()["errors"]] == ["id"]


@pytest.mark.parametrize(("given", "read"), [(5, 5), (5.0, 5), (None, None)])
def test_version_of_a_fork_is_a_whole_number_however_it_is_written(given: object, read: int | None) -> None:
    assert read_fork({"id": "a", "version": given}) == ForkWish("a", "", read)


@pytest.mark.parametrize("version", [-1, 1.5, True, "1", 2**63, float("1e300")])
def test_version_of_a_fork_that_is_none_is_refused(version: object) -> None:
    with pytest.raises(InvalidTask):
        read_fork({"id": "a", "version": version})
