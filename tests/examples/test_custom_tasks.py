"""The examples of tasks of one's own, as a user runs them: from code, from files, from a URL."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import ROOT, System
from tests.gateway.task_sources.file_server import FileServer
from tests.waiting import eventually

IRIS = ROOT / "examples" / "iris"


async def served_by(tmp_path: Path, *command: str) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """The tasks, the model of `iris` and the answer at /hello of an example, which then ends as Ctrl-C ends it."""
    system = System(tmp_path / "data", {"DISCO_FETCH_NETWORKS": "127.0.0.0/8"})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, cwd=ROOT, env=system.environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip

    async def is_ready() -> bool:
        assert process.returncode is None, (await process.communicate())[0].decode()
        return (await system.get("readyz"))[0] == 200

    try:
        await eventually(is_ready, 90)
        bodies = [(await system.get(path))[1] for path in ("tasks", "tfjs/iris/model.json", "hello")]
    finally:
        if process.returncode is None:
            os.kill(process.pid, signal.SIGINT)
        await process.communicate()
    assert process.returncode == 0
    tasks, model, hello = (json.loads(body) for body in bodies)
    return tasks, model, hello


def layers(model: dict[str, Any]) -> list[tuple[str, int]]:
    return [(layer["config"]["name"], layer["config"]["units"]) for layer in model["modelTopology"]["config"]["layers"]]


async def test_task_from_code_is_served_beside_a_default_task_and_a_route(tmp_path: Path) -> None:
    tasks, model, hello = await served_by(tmp_path, "examples.task_from_code")
    assert [task["id"] for task in tasks] == ["iris", "titanic"]
    assert layers(model) == [("hidden", 8), ("species", 3)]
    assert hello == {"hello": "This server is mine."}


async def test_task_from_files_is_served(tmp_path: Path) -> None:
    tasks, model, _ = await served_by(tmp_path, "examples.task_from_file")
    assert [task["displayInformation"]["taskTitle"] for task in tasks] == ["Iris"]
    assert layers(model) == [("hidden", 8), ("species", 3)]


@pytest.mark.parametrize("path", ["/m/model.json"])
async def test_task_from_a_url_is_served(tmp_path: Path, path: str) -> None:
    server = FileServer()
    server.pages[path] = (IRIS / "model.json").read_bytes()
    async with server.running() as url:
        tasks, model, _ = await served_by(tmp_path, "examples.task_from_url", url + path)
    assert [request["path"] for request in server.requests] == [path]
    assert [task["id"] for task in tasks] == ["iris"]
    assert layers(model) == [("hidden", 8), ("species", 3)]
