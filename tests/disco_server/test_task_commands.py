"""`disco-server tasks` and `disco-server models`, as a user runs them against a running server, and without one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from click.testing import Result
from typer.testing import CliRunner

from blobstore.records import Model, WeightSpec
from disco_server.command_line import app
from disco_server.server_client import default_address
from services.task_service.conversion.exporting import export_version
from services.task_service.gpt import weights_of_gpt
from tests.e2e.system import ROOT, System
from tests.gateway.task_sources.file_server import FileServer
from tests.gateway.task_sources.files import TASK, WEIGHTS, document, write

NOBODY = "http://127.0.0.1:1"


def run(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200", **environment})


def said(result: Result, code: int = 0) -> Any:
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    settings = {
        "DISCO_DEFAULT_TASKS": "digits",
        "DISCO_TASK_CREATION": "token",
        "DISCO_TASK_TOKEN": "word",
        "DISCO_FETCH_NETWORKS": "127.0.0.0/8",
    }
    system = System(tmp_path_factory.mktemp("commands") / "data", settings)
    await system.start()
    yield system
    await system.stop()


@pytest.fixture
def wine(tmp_path: Path) -> Path:
    folder = write(tmp_path / "wine", document(), {"group1-shard1of1.bin": WEIGHTS})
    (folder / "task.json").write_text(json.dumps(TASK))
    return folder


@pytest.mark.asyncio(loop_scope="module")
async def test_task_is_added_shown_exported_forked_and_added_again(system: System, wine: Path, tmp_path: Path) -> None:
    at = ("--server", system.url, "--json")
    token = {"DISCO_TASK_TOKEN": "word"}

    async def ran(*words: str, code: int = 0, **environment: str) -> Any:
        return said(await asyncio.to_thread(run, *words, *at, **environment), code)

    add = ("tasks", "add", str(wine / "task.json"), "--model", str(wine))
    assert "send the token" in (await ran(*add, code=1))["error"]
    assert (await ran(*add, **token))["task_id"] == "wine"
    assert "exists already" in (await ran(*add, code=1, **token))["error"]
    assert [task["id"] for task in await ran("tasks", "list")] == ["digits", "wine"]
    shown = await ran("tasks", "show", "wine")
    assert (shown["task"]["displayInformation"]["taskTitle"], shown["round"]["number"]) == ("Wine", 0)

    exported = tmp_path / "exported"
    assert (await ran("tasks", "export", "wine", str(exported)))["files"] == ["task.json", "model.json", "weights.bin"]
    assert (exported / "weights.bin").read_bytes() == WEIGHTS
    copied = json.loads((exported / "task.json").read_text())
    assert said(run("tasks", "validate", str(exported / "task.json"), "--json"))["valid"]
    (exported / "task.json").write_text(json.dumps({**copied, "id": "wine2", "taskID": "wine2"}))
    await ran("tasks", "add", str(exported / "task.json"), "--model", str(exported / "model.json"), **token)

    assert (await ran("tasks", "fork", "wine", "wine3", "--title", "Third", code=1))["error"].startswith("Creating")
    assert (await ran("tasks", "fork", "wine", "wine3", "--title", "Third", **token))["source_version"] == 0
    assert "is not valid" in (await ran("tasks", "fork", "wine", "a b", code=1, **token))["error"]
    downloaded = tmp_path / "downloaded"
    await ran("models", "download", "wine3", str(downloaded), "--version", "0")
    assert (downloaded / "weights.bin").read_bytes() == WEIGHTS
    titles = [task["displayInformation"]["taskTitle"] for task in await ran("tasks", "list")]
    assert titles == ["Digits of scikit-learn", "Wine", "Wine", "Third"]
    assert "There is no task none" in (await ran("tasks", "show", "none", code=1))["error"]
    for task_id in ("wine", "wine2", "wine3"):
        assert (await ran("tasks", "remove", task_id, "--yes", **token))["sentence"] == f"Deleted task {task_id}."
    assert [task["id"] for task in await ran("tasks", "list")] == ["digits"]
    assert "There is no task wine" in (await ran("tasks", "remove", "wine", "--yes", code=1, **token))["error"]


TEXT = {"dataType": "text", "tensorBackend": "gpt"}
SMALL_GPT = {"name": "transformer", "nLayer": 1, "nHead": 1, "nEmbd": 2, "blockSize": 3, "vocabSize": 5, "bias": True}


@pytest.mark.asyncio(loop_scope="module")
async def test_version_goes_out_with_its_labels_and_comes_back_as_it_was(
    system: System, wine: Path, tmp_path: Path
) -> None:
    # What should happen: TF.js and a GPT are exported, added again, and have the digest that they had; task, version
    # and digest go with the file. What should not: a folder that is left behind by an export that was refused.
    at = ("--server", system.url, "--json")
    token = {"DISCO_TASK_TOKEN": "word"}

    async def ran(*words: str, code: int = 0, **environment: str) -> Any:
        return said(await asyncio.to_thread(run, *words, *at, **environment), code)

    async def digest_of(path: Path) -> Any:
        return said(await asyncio.to_thread(run, "models", "inspect", str(path), "--json"))["digest"]

    specs = tuple(WeightSpec(weight.name, weight.shape) for weight in weights_of_gpt(json.dumps(SMALL_GPT)))
    weights = tmp_path / "weights.bin"
    weights.write_bytes(np.arange(sum(math.prod(spec.shape) for spec in specs), dtype="<f4").tobytes())
    gpt = Model(kind="gpt", topology_json=json.dumps(SMALL_GPT), weight_specs=specs)
    await export_version(gpt, weights, form="safetensors", target=tmp_path / "gpt.safetensors", labels={})
    for_text = {**TASK, "id": "gpt", "trainingInformation": TASK["trainingInformation"] | TEXT}
    (tmp_path / "gpt.json").write_text(json.dumps(for_text))

    await ran("tasks", "add", str(tmp_path / "gpt.json"), "--model", str(tmp_path / "gpt.safetensors"), **token)
    (wine / "task.json").write_text(json.dumps({**TASK, "id": "layers"}))
    await ran("tasks", "add", str(wine / "task.json"), "--model", str(wine), **token)
    out = tmp_path / "out"
    refused = await ran("models", "download", "gpt", str(out), code=1)
    assert "a GPT is written as safetensors only" in refused["error"]
    assert not out.exists()
    digests = {"gpt": hashlib.sha256(weights.read_bytes()).hexdigest(), "layers": hashlib.sha256(WEIGHTS).hexdigest()}
    for task_id, digest in digests.items():
        await ran("tasks", "export", task_id, str(out / task_id), "--form", "safetensors")
        file = out / task_id / "model.safetensors"
        assert await digest_of(file) == digest
        data = file.read_bytes()
        labels = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        assert {"task_id": task_id, "version": "0", "digest": digest}.items() <= labels.items()
    (tmp_path / "again.json").write_text((out / "gpt" / "task.json").read_text().replace('"gpt"', '"again"', 1))
    await ran("tasks", "add", str(tmp_path / "again.json"), "--model", str(out / "gpt" / "model.safetensors"), **token)
    await ran("models", "download", "again", str(out / "again"), "--form", "safetensors")
    assert await digest_of(out / "again" / "model.safetensors") == digests["gpt"]
    await ran("models", "download", "layers", str(out / "tfjs"))
    told = json.loads((out / "tfjs" / "model.json").read_text())["userDefinedMetadata"]
    assert told == {"task_id": "layers", "version": "0", "digest": digests["layers"]}
    for task_id in ("gpt", "again", "layers"):
        await ran("tasks", "remove", task_id, "--yes", **token)


@pytest.mark.asyncio(loop_scope="module")
async def test_model_at_a_url_is_fetched_by_the_server(system: System, wine: Path, tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text(json.dumps({**TASK, "id": "fetched"}))
    server = FileServer()
    for name in ("model.json", "group1-shard1of1.bin"):
        server.pages[f"/{name}"] = (wine / name).read_bytes()
    async with server.running() as url:
        words = ("tasks", "add", str(tmp_path / "task.json"), "--model", f"{url}/model.json", "--server", system.url)
        result = await asyncio.to_thread(run, *words, DISCO_TASK_TOKEN="word")
    assert (result.exit_code, result.stdout) == (0, "Created task fetched.\n")
    assert [request["path"] for request in server.requests] == ["/model.json", "/group1-shard1of1.bin"]


@pytest.mark.asyncio(loop_scope="module")
async def test_list_and_show_are_readable(system: System) -> None:
    listed = await asyncio.to_thread(run, "tasks", "list", "--server", system.url)
    assert "│ digits " in listed.stdout
    shown = await asyncio.to_thread(run, "tasks", "show", "digits", "--server", system.url)
    assert "Round 0: " in shown.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("tasks", "list"),
        ("tasks", "show", "a"),
        ("tasks", "add", str(ROOT / "examples/iris/task.json")),
        ("tasks", "add", str(ROOT / "examples/iris/task.json"), "--model", str(ROOT / "examples/iris")),
        ("tasks", "export", "a", "{folder}"),
        ("tasks", "remove", "a", "--yes"),
        ("tasks", "fork", "a", "b"),
        ("models", "download", "a", "{folder}"),
    ],
)
def test_server_that_is_not_there_is_one_sentence_and_exit_code_3(words: tuple[str, ...], tmp_path: Path) -> None:
    words = tuple(word.format(folder=tmp_path / "f") for word in words)
    plain = run(*words, "--server", NOBODY)
    assert (plain.exit_code, plain.stdout) == (3, "")
    assert plain.stderr.startswith(f"No Disco server answers at {NOBODY} (")
    assert plain.stderr.count("\n") == 1
    assert said(run(*words, "--server", NOBODY, "--json"), 3)["error"] == plain.stderr.strip()


def test_server_is_by_default_the_one_of_this_environment() -> None:
    assert default_address({}) == "http://127.0.0.1:8080"
    assert default_address({"DISCO_GATEWAY_HOST": "0.0.0.0", "DISCO_GATEWAY_PORT": "9"}) == "http://127.0.0.1:9"


def test_valid_task_is_judged_for_every_generation() -> None:
    result = run("tasks", "validate", str(ROOT / "examples/iris/task.json"))
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "This server takes the task, and serves it to every generation in words that it accepts.",
        "Clients of generation 2.1 reject the file as it stands:",
        "  taskID: is missing",
        "  trainingInformation.modelID: is missing",
        "  trainingInformation.modelCompileData: is missing",
        "Clients of generation 2.2 reject the file as it stands:",
        "  trainingInformation.modelID: is missing",
        "  trainingInformation.tensorBackend: is missing",
        "Clients of generation 3.0 reject the file as it stands:",
        "  trainingInformation.modelID: is missing",
        "  trainingInformation.tensorBackend: is missing",
        "Clients of generation 4 reject the file as it stands:",
        "  trainingInformation.tensorBackend: is missing",
    ]


def test_invalid_task_lists_everything_and_ends_with_1(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"id": "a/b", "trainingInformation": {"epochs": 0}}')
    answer = said(run("tasks", "validate", str(tmp_path / "t.json"), "--json"), 1)
    assert answer["valid"] is False
    assert {error["path"] for error in answer["errors"]} == {
        "id",
        "trainingInformation.epochs",
        "trainingInformation.batchSize",
        "trainingInformation.inputColumns",
        "trainingInformation.outputColumns",
    }
    assert [verdict["accepts"] for verdict in answer["clients"].values()] == [False] * 4


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"{", "is not JSON"), (b"[]", "is no JSON object"), (b"[" * 9999, "nested too deep"), (None, "No such file")],
)
def test_file_that_is_no_task_is_one_sentence(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "t.json").write_bytes(content)
    result = run("tasks", "validate", str(tmp_path / "t.json"))
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert sentence in result.stderr


def test_model_is_inspected_and_converted(wine: Path, tmp_path: Path) -> None:
    found = said(run("models", "inspect", str(wine / "model.json"), "--json"))
    assert (found["weights"], found["kind"]) == (10, "tfjs")
    assert [tensor["shape"] for tensor in found["tensors"]] == [[4, 2], [2]]
    assert found["digest"] in run("models", "inspect", str(wine / "model.json")).stdout
    assert run("models", "convert", str(wine / "model.json"), str(tmp_path / "out")).exit_code == 0
    assert (tmp_path / "out" / "weights.bin").read_bytes() == WEIGHTS
    assert said(run("models", "inspect", str(tmp_path / "out"), "--json"))["digest"] == found["digest"]


def test_model_that_cannot_be_read_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.h5").write_bytes(b"nothing")
    for words in (("inspect", "m.h5"), ("convert", "m.h5", "out"), ("inspect", "none.h5")):
        result = run("models", words[0], *(str(tmp_path / word) for word in words[1:]))
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_nothing_is_deleted_without_a_yes() -> None:
    result = CliRunner().invoke(app, ["tasks", "remove", "a", "--server", NOBODY], input="n\n")
    assert (result.exit_code, "Nothing was deleted." in result.stderr) == (1, True)


@pytest.mark.parametrize(
    "words",
    [("tasks", name) for name in ("list", "show", "add", "validate", "export", "remove", "fork")]
    + [("models", name) for name in ("convert", "inspect", "download")],
)
def test_help_states_the_exit_codes_and_every_command_speaks_json(words: tuple[str, str]) -> None:
    output = run(*words, "--help").output
    assert "Exit codes: 0 done, 1 refused or not valid, 2 wrong usage, 3 no server answers." in output
    assert "--json" in output


@pytest.mark.parametrize("name", ["receipt", "version", "chain"])
def test_help_of_what_verifies_states_its_exit_codes(name: str) -> None:
    output = run("verify", name, "--help").output
    assert "Exit codes: 0 all of it holds, 1 something does not or cannot be read, 2 wrong usage." in output
    assert "--json" in output
