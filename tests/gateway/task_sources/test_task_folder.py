"""A folder of task files, against the real task service."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from blobstore import records, task_updates
from blobstore.directory import DirectoryBlobStore
from gateway.task_sources.allowed_addresses import networks
from gateway.task_sources.fetching import Fetcher
from gateway.task_sources.offers import Offers
from gateway.task_sources.task_folder import TaskFolder
from learning.ids import TaskId
from tests.e2e.system import System
from tests.gateway.task_sources.file_server import FileServer
from tests.gateway.task_sources.files import TASK, WEIGHTS, document, write
from tests.services.task_service.test_servicer import _served as served
from tests.waiting import eventually

WINE = TaskId("wine")


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryBlobStore]:
    async with DirectoryBlobStore(tmp_path / "data") as store:
        yield store


@pytest_asyncio.fixture
async def folder(store: DirectoryBlobStore, tmp_path: Path) -> AsyncIterator[TaskFolder]:
    (tmp_path / "tasks").mkdir()
    async with served(store) as stub:
        yield TaskFolder(
            tmp_path / "tasks",
            task_service=stub,
            offers=Offers(Fetcher(networks("127.0.0.0/8")), limit_bytes=1 << 20),
        )


async def events(folder: TaskFolder, looks: int = 2) -> list[dict[str, Any]]:
    """What the folder says in the log during so many looks."""
    with capture_logs() as logs:
        for _ in range(looks):
            await folder.look_once()
    own = [log for log in logs if log["event"].startswith("task_folder.")]
    return [{key: log[key] for key in log if key != "log_level"} for log in own]


def put(path: Path, **changes: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**TASK, **changes}))
    return path


async def title(store: DirectoryBlobStore) -> str:
    return (await task_updates.read(store, WINE)).task.display.title


async def test_files_become_tasks_with_the_models_beside_them(
    folder: TaskFolder, store: DirectoryBlobStore, tmp_path: Path
) -> None:
    tasks = tmp_path / "tasks"
    for name in ("wine", "beer"):
        write(tasks / name, document(), {"group1-shard1of1.bin": WEIGHTS})
    flat, nested = put(tasks / "wine.json"), put(tasks / "beer" / "task.json", id="beer")
    assert await events(folder) == [
        {"event": "task_folder.task_added", "file": str(nested)},
        {"event": "task_folder.task_added", "file": str(flat)},
    ]
    assert await events(folder) == []
    assert await records.list_tasks(store) == ["beer", "wine"]
    assert next((tmp_path / "data/tasks/wine/weights").iterdir()).read_bytes() == WEIGHTS


async def test_model_is_fetched_from_its_url(folder: TaskFolder, store: DirectoryBlobStore, tmp_path: Path) -> None:
    server = FileServer()
    server.pages["/model.json"] = json.dumps(document([])).encode()
    async with server.running() as url:
        training = {**TASK["trainingInformation"], "modelURL": f"{url}/model.json"}
        put(tmp_path / "tasks" / "wine.json", trainingInformation=training)
        await events(folder)
    assert await records.list_tasks(store) == ["wine"]


async def test_changed_file_updates_the_task_also_after_a_restart_and_by_atomic_rename(
    folder: TaskFolder, store: DirectoryBlobStore, tmp_path: Path
) -> None:
    tasks = tmp_path / "tasks"
    write(tasks / "wine", document(), {"group1-shard1of1.bin": WEIGHTS})
    file = put(tasks / "wine.json")
    await events(folder)
    put(tmp_path / "new.json", displayInformation={"taskTitle": "Better"}).replace(file)
    assert await events(folder) == [{"event": "task_folder.task_up_to_date", "file": str(file)}]
    assert await title(store) == "Better"
    fixed = {**TASK["trainingInformation"], "inputColumns": ["x"]}
    put(file, trainingInformation=fixed)
    (refused,) = await events(folder)
    assert (refused["event"], refused["file"]) == ("task_folder.file_refused", str(file))
    assert "input_columns" in refused["because"]
    assert await title(store) == "Better"


async def test_removed_file_deletes_nothing_and_says_so(
    folder: TaskFolder, store: DirectoryBlobStore, tmp_path: Path
) -> None:
    write(tmp_path / "tasks" / "wine", document(), {"group1-shard1of1.bin": WEIGHTS})
    file = put(tmp_path / "tasks" / "wine.json")
    await events(folder)
    file.unlink()
    assert await events(folder) == [
        {
            "event": "task_folder.file_removed",
            "file": str(file),
            "kept": "the task stays; delete it over the API",
        }
    ]
    assert await records.list_tasks(store) == ["wine"]


async def test_bad_file_is_one_line_with_its_paths_and_the_others_go_on(
    folder: TaskFolder, store: DirectoryBlobStore, tmp_path: Path
) -> None:
    tasks = tmp_path / "tasks"
    write(tasks / "wine", document(), {"group1-shard1of1.bin": WEIGHTS})
    put(tasks / "wine.json")
    bad = put(tasks / "a.json", id="a", trainingInformation={"dataType": "text", "epochs": 0})
    none = put(tasks / "b.json", id="b")
    (tasks / "c.json").write_text("{")
    (tasks / "d.json").write_text("5")
    found = {Path(event["file"]).name: event for event in await events(folder)}
    assert found.keys() == {"a.json", "b.json", "c.json", "d.json", "wine.json"}
    assert found["a.json"]["errors"] == {
        "trainingInformation.epochs": "must be at least 1",
        "trainingInformation.batchSize": "is missing",
    }
    assert "it is missing" in found["b.json"]["because"]
    assert "is not JSON" in found["c.json"]["because"]
    assert found["d.json"]["errors"] == {"task": "is no object"}
    assert await records.list_tasks(store) == ["wine"]
    assert await events(folder) == []
    write(tasks / "b", document(), {"group1-shard1of1.bin": WEIGHTS})
    put(bad, id="a", trainingInformation={"dataType": "text", "epochs": 1, "batchSize": 1})
    assert {event["file"] for event in await events(folder)} == {str(bad), str(none)}
    assert await records.list_tasks(store) == ["b", "wine"]


async def test_file_that_is_still_being_written_is_left_alone(
    folder: TaskFolder, store: DirectoryBlobStore, tmp_path: Path
) -> None:
    file = tmp_path / "tasks" / "wine.json"
    write(tmp_path / "tasks" / "wine", document(), {"group1-shard1of1.bin": WEIGHTS})
    text = json.dumps(TASK)
    for end in range(10, len(text), 100):
        file.write_text(text[:end])
        assert await events(folder, looks=1) == []
    file.write_text(text)
    assert await events(folder) == [{"event": "task_folder.task_added", "file": str(file)}]


async def test_files_of_editors_are_not_looked_at(folder: TaskFolder, tmp_path: Path) -> None:
    for name in (".wine.json.swp", ".wine.json", "#wine.json#", "wine.json~", "4913", "wine.json.tmp", "wine.txt"):
        (tmp_path / "tasks" / name).write_text(json.dumps(TASK))
    assert await events(folder) == []


async def test_folder_that_goes_away_is_said_and_comes_back(folder: TaskFolder, tmp_path: Path) -> None:
    os.rename(tmp_path / "tasks", tmp_path / "elsewhere")
    assert [event["event"] for event in await events(folder, looks=1)] == ["task_folder.unreadable"]
    os.rename(tmp_path / "elsewhere", tmp_path / "tasks")
    assert await events(folder) == []


async def test_real_system_loads_and_watches_its_folder(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    write(tasks / "wine", document(), {"group1-shard1of1.bin": WEIGHTS})
    put(tasks / "wine.json")
    system = System(tmp_path / "data", {"DISCO_DEFAULT_TASKS": "none", "DISCO_TASKS_FOLDER": str(tasks)})
    await system.start()
    try:

        async def titles() -> list[str]:
            found = json.loads((await system.get("tasks"))[1])
            return [task["displayInformation"]["taskTitle"] for task in found]

        async def is_there(wanted: str) -> bool:
            return await titles() == [wanted]

        await eventually(lambda: is_there("Wine"), 30)
        put(tasks / "wine.json", displayInformation={"taskTitle": "New"})
        await eventually(lambda: is_there("New"), 30)
    finally:
        await asyncio.wait_for(system.stop(), 60)


def test_setting_that_is_no_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.settings import GatewaySettings

    monkeypatch.setenv("DISCO_TASKS_FOLDER", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="must be a folder that exists"):
        GatewaySettings()
