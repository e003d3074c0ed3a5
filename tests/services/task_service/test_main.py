"""The process itself: started, asked, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from disco.task.v1 import task_service_pb2, task_service_pb2_grpc

from rpc.channel import connect

_ROOT = Path(__file__).parents[3]


async def _start(data_dir: Path, **settings: str) -> asyncio.subprocess.Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DISCO_")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.task_service"),
        cwd=_ROOT,
        env={
            **environment,
            "PYTHONPATH": f"{_ROOT}{os.pathsep}{_ROOT / 'gen'}",
            "DISCO_DATA_DIR": str(data_dir),
            "DISCO_LOG_FORMAT": "json",
            "DISCO_TASK_SERVICE_PORT": "0",
            "DISCO_TASK_SERVICE_METRICS_PORT": "0",
            **settings,
        },
        stderr=asyncio.subprocess.PIPE,
    )


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    while line := (await asyncio.wait_for(process.stderr.readline(), 30)).decode():
        if "server.started" in line:
            return line.split('"address": "')[1].split('"')[0]
    raise AssertionError("the process ended before it served")


async def test_the_process_serves_default_tasks_and_drains_on_sigterm(tmp_path: Path) -> None:
    # What should happen: the tasks are there once it serves; SIGTERM ends it with 0; a second one finds them.
    for _ in range(2):
        process = await _start(tmp_path, DISCO_DEFAULT_TASKS="digits,titanic")
        try:
            async with connect(await _address(process)) as channel:
                stub = task_service_pb2_grpc.TaskServiceStub(channel)
                listed = await stub.ListTasks(task_service_pb2.ListTasksRequest(), timeout=20)
            assert [task.task_id for task in listed.tasks] == ["digits", "titanic"]
        finally:
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 0


async def test_a_data_directory_that_cannot_be_one_ends_the_process_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    process = await _start(tmp_path / "data")
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert errors.decode().splitlines() == [
        f"Cannot keep blobs in {tmp_path / 'data'}. Make it a directory that can be written, or choose another."
    ]


@pytest.mark.parametrize("name", ["DISCO_TASK_SERVICE_PROT", "DISCO_TASK_SERVICE_PORT"])
async def test_bad_settings_end_the_process_with_2(name: str, tmp_path: Path) -> None:
    process = await _start(tmp_path, **{name: "x"})
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert name in errors.decode()
