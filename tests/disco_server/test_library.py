"""Disco as a library: tasks from wherever a program has them, and a server with routes of one's own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import urllib.request
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fastapi import Request, Response

import disco_server
from disco_server import Disco, ModelSource, Policy, Task, TaskProvider
from disco_server.cannot_start import CannotStart
from disco_server.settings import LauncherSettings
from learning.refusals import DigestMismatch, InvalidModel, InvalidTask, TaskAlreadyExists, TaskFieldFixed
from tests.e2e.system import ROOT, free_ports
from tests.gateway.task_sources.file_server import FileServer
from tests.gateway.task_sources.files import SPECS, TASK, TOPOLOGY, WEIGHTS, document, write

ARTIFACTS: dict[str, Any] = {"modelTopology": TOPOLOGY, "weightSpecs": SPECS, "weightData": WEIGHTS}


@pytest.fixture
def disco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disco:
    for name in LauncherSettings.model_fields:
        if name.endswith("_port"):
            monkeypatch.setenv(f"DISCO_{name.upper()}", "0")
    monkeypatch.setenv("DISCO_FETCH_NETWORKS", "127.0.0.0/8")
    return Disco(data_dir=tmp_path / "data")


def stored_weights(tmp_path: Path) -> bytes:
    (found,) = (tmp_path / "data" / "tasks" / "wine" / "weights").iterdir()
    return found.read_bytes()


class Wine(TaskProvider):
    def get_task(self) -> dict[str, Any]:
        return TASK

    def get_model(self) -> ModelSource:
        return ARTIFACTS


class WineLater(TaskProvider):
    async def get_task(self) -> dict[str, Any]:
        return TASK

    async def get_model(self) -> ModelSource:
        return {**ARTIFACTS, "weightData": [WEIGHTS[:5], bytearray(WEIGHTS[5:])]}


@pytest.mark.parametrize("provider", [Wine(), WineLater()])
async def test_provider_gives_a_task_and_its_model_at_once_or_later(
    disco: Disco, tmp_path: Path, provider: TaskProvider
) -> None:
    task = await disco.add_task(provider)
    assert (task.task_id, task.training.round_duration_epochs) == ("wine", 2)
    assert stored_weights(tmp_path) == WEIGHTS


async def test_path_and_folder_and_url_and_client_bytes_give_the_same_weights(disco: Disco, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", document(), {"group1-shard1of1.bin": WEIGHTS})
    server = FileServer()
    server.pages["/m/model.json"] = (folder / "model.json").read_bytes()
    server.pages["/m/group1-shard1of1.bin"] = WEIGHTS
    async with server.running() as url:
        sources: list[ModelSource] = [folder, str(folder / "model.json"), f"{url}/m/model.json"]
        for number, source in enumerate(sources):
            await disco.add_task({**TASK, "id": f"wine{number}"}, source)
        in_task = {**TASK["trainingInformation"], "modelURL": f"{url}/m/model.json"}
        await disco.add_task({**TASK, "trainingInformation": in_task})
    folders = sorted((tmp_path / "data" / "tasks").iterdir())
    assert [folder.name for folder in folders] == ["wine", "wine0", "wine1", "wine2"]
    assert {next((folder / "weights").iterdir()).read_bytes() for folder in folders} == {WEIGHTS}


@pytest.mark.parametrize("source", ["folder", "file of Keras", "model object", "artifacts", "client bytes"])
async def test_digest_of_a_task_is_checked_wherever_its_model_comes_from(
    disco: Disco, tmp_path: Path, source: str
) -> None:
    with zipfile.ZipFile(ROOT / "tests/services/task_service/conversion/saved_models.zip") as archive:
        keras = archive.read("keras/dense.keras")
    (tmp_path / "model.keras").write_bytes(keras)
    client_bytes = msgspec.msgpack.encode({**ARTIFACTS, "weightData": msgspec.msgpack.Ext(0x1A, WEIGHTS)})
    sources: dict[str, ModelSource] = {
        "folder": write(tmp_path / "m", document(), {"group1-shard1of1.bin": WEIGHTS}),
        "file of Keras": tmp_path / "model.keras",
        "model object": SavedModel(keras),
        "artifacts": ARTIFACTS,
        "client bytes": client_bytes,
    }
    with pytest.raises(DigestMismatch) as mismatch:
        await disco.add_task({**TASK, "digest": {"algorithm": "sha256", "value": "00" * 32}}, sources[source])
    right = mismatch.value.variables["received"]
    await disco.add_task({**TASK, "digest": {"algorithm": "sha256", "value": right}}, sources[source])
    assert hashlib.sha256(stored_weights(tmp_path)).hexdigest() == right


@pytest.mark.parametrize(
    ("task", "model", "error", "sentence"),
    [
        (TASK, None, InvalidModel, "it is missing"),
        (TASK, 5, InvalidModel, "a int is no model"),
        (TASK, "nowhere/model.json", InvalidModel, "there is no nowhere"),
        (TASK, {}, InvalidModel, "it has no topology"),
        (TASK, {"modelTopology": {"class_name": "Odd"}}, InvalidModel, "cannot be used"),
        (TASK, "http://10.0.0.1/model.json", InvalidTask, "not public"),
        ({**TASK, "trainingInformation": {}}, ARTIFACTS, InvalidTask, "epochs"),
    ],
)
async def test_what_is_wrong_is_said_by_the_call_that_adds_it(
    disco: Disco, task: dict[str, Any], model: Any, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        await disco.add_task(task, model)


async def test_task_of_an_earlier_run_stays_and_what_is_told_about_it_is_updated(disco: Disco, tmp_path: Path) -> None:
    first = await disco.add_task(TASK, ARTIFACTS)
    again = await disco.add_task(TASK, {**ARTIFACTS, "weightData": bytes(len(WEIGHTS))})
    assert again == first
    told = await disco.add_task({**TASK, "displayInformation": {"taskTitle": "New"}}, ARTIFACTS)
    assert told.display.title == "New"
    assert stored_weights(tmp_path) == WEIGHTS


async def test_task_with_another_model_or_policy_is_refused(disco: Disco) -> None:
    first = await disco.add_task(TASK, ARTIFACTS)
    other = Task(first.task_id, first.scheme, first.data_kind, first.display, first.training, Policy(3))
    with pytest.raises(TaskFieldFixed, match="policy"):
        await disco.add_task(other, ARTIFACTS)
    iris = json.loads((ROOT / "examples/iris/model.json").read_text())
    with pytest.raises(TaskAlreadyExists):
        await disco.add_task(TASK, {"modelTopology": iris["modelTopology"]})


async def test_default_tasks_are_those_that_are_named_or_those_of_the_setting(
    disco: Disco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await disco.add_default_tasks(["digits"])
    monkeypatch.setenv("DISCO_DEFAULT_TASKS", "titanic")
    await Disco(data_dir=tmp_path / "data").add_default_tasks()
    assert {folder.name for folder in (tmp_path / "data" / "tasks").iterdir()} == {"digits", "titanic"}


async def test_server_has_the_routes_and_the_middleware_of_the_program_beside_its_own(disco: Disco) -> None:
    @disco.app.get("/hello/{name}")
    async def hello(name: str) -> dict[str, str]:
        return {"hello": name}

    @disco.app.get("/tasks")
    async def never_reached() -> list[str]:
        return []

    @disco.app.get("/")
    async def front_page() -> dict[str, str]:
        return {"mine": "too"}

    @disco.app.middleware("http")
    async def stamp(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        answer = await call_next(request)
        answer.headers["X-Mine"] = request.url.path
        return answer

    await disco.add_task(TASK, ARTIFACTS)
    async with disco.running() as url:

        def get(path: str) -> tuple[Any, str]:
            with urllib.request.urlopen(url + path, timeout=10) as answer:
                return json.loads(answer.read()), answer.headers["X-Mine"]

        assert await asyncio.to_thread(get, "hello/anna") == ({"hello": "anna"}, "/hello/anna")
        assert await asyncio.to_thread(get, "") == ({"mine": "too"}, "/")
        tasks, stamped = await asyncio.to_thread(get, "tasks")
        assert ([task["id"] for task in tasks], stamped) == (["wine"], "/tasks")
        weights = urllib.request.Request(url + "tasks/wine/weights.bin")
        assert await asyncio.to_thread(lambda: urllib.request.urlopen(weights, timeout=10).read()) == WEIGHTS
        await disco.add_task({**TASK, "id": "later"}, ARTIFACTS)
        assert await asyncio.to_thread(get, "tasks/later/round")


async def test_port_that_is_taken_is_said_in_a_sentence(tmp_path: Path, disco: Disco) -> None:
    (port,) = free_ports(1)
    server = await asyncio.start_server(lambda _, __: None, "127.0.0.1", port)
    try:
        with pytest.raises(CannotStart, match=f"Port {port} on 127.0.0.1 is taken"):
            async with Disco(port=port, data_dir=tmp_path / "data").running():
                raise AssertionError("it cannot have started")
    finally:
        server.close()
        await server.wait_closed()


def test_wrong_setting_raises_and_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gateway_port"):
        Disco(port=70000, data_dir=tmp_path)


def test_every_name_of_the_library_exists_and_others_do_not() -> None:
    assert all(getattr(disco_server, name) is not None for name in disco_server.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Dsico'"):
        disco_server.Dsico  # noqa: B018


class SavedModel:
    """What a model object of Keras can do, as far as we need it; real ones are in test_real_keras.py."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.saved_as = ""

    def get_config(self) -> dict[str, Any]:
        return {}

    def save(self, filepath: str) -> None:
        self.saved_as = Path(filepath).name
        Path(filepath).write_bytes(self._data)


@pytest.mark.parametrize(
    ("file", "package", "name"),
    [
        ("keras/dense.keras", "keras.src.models.sequential", "model.keras"),
        ("tf_keras/dense.h5", "tf_keras.src.engine", "model.h5"),
    ],
)
async def test_model_object_of_keras_and_its_file_give_the_same_task(
    disco: Disco, tmp_path: Path, file: str, package: str, name: str
) -> None:
    with zipfile.ZipFile(ROOT / "tests/services/task_service/conversion/saved_models.zip") as archive:
        data = archive.read(file)
    model = type("Sequential", (SavedModel,), {"__module__": package})(data)
    (tmp_path / name).write_bytes(data)
    await disco.add_task({**TASK, "id": "object"}, model)
    await disco.add_task({**TASK, "id": "file"}, tmp_path / name)
    weights = [next((tmp_path / "data/tasks" / task_id / "weights").iterdir()) for task_id in ("object", "file")]
    assert model.saved_as == name
    assert weights[0].read_bytes() == weights[1].read_bytes()
