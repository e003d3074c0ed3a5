"""What a creation leaves whose process was killed is swept, and what another one is about to publish is not.

(What is left of deleted tasks is in test_task_changes.)
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from blobstore import creations, names
from blobstore.directory import DirectoryBlobStore
from learning.ids import TaskId
from learning.refusals import QuotaExceeded, StreamStalled
from services.task_service.catalog import Catalog
from services.task_service.leftovers import QUIET_S, Leftovers
from services.task_service.new_weights import OfferedWeights
from services.task_service.quotas import Quotas
from tests.services.task_service.tasks import SPECS, model, task

ROOT = Path(__file__).parents[3]
SMALL = TaskId("small")
WEIGHTS = np.arange(6, dtype="<f4").tobytes()
LIMIT = 1 << 20

KILLED = """
import asyncio, sys
from blobstore.directory import DirectoryBlobStore
from services.task_service.catalog import Catalog
from tests.services.task_service.tasks import SPECS, model, task

class Stopping(DirectoryBlobStore):
    async def write(self, name, parts, *, replace=True):
        if name.endswith(sys.argv[2]):
            await super().settle()
            print("stopped", flush=True)
            sys.stdin.readline()
        await super().write(name, parts, replace=replace)

async def create():
    await Catalog(Stopping(sys.argv[1]), max_bytes=1000).create(
        task(), model(*SPECS), bytes(24), request_id="", now=1.0
    )

asyncio.run(create())
"""


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryBlobStore]:
    async with DirectoryBlobStore(tmp_path) as store:
        yield store


def kill_before(ending: str, folder: Path) -> None:
    """Kills a process that creates a task, before it writes the blob whose name ends so."""
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), ending],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen'}"},
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"stopped\n"
    writer.kill()
    writer.communicate()


@pytest.mark.parametrize(("ending", "left"), [("task.json", 2), (".json", 1)])
async def test_what_a_killed_creation_left_is_swept_after_an_hour(
    store: DirectoryBlobStore, tmp_path: Path, ending: str, left: int
) -> None:
    # What should happen: a task that is there stays; one whose creation was killed can be created before the
    # sweep and after it, and its mark holds no room for ever.
    catalog, clock = Catalog(store, max_bytes=LIMIT), Clock()
    await catalog.create(task("other"), model(*SPECS), WEIGHTS, request_id="", now=1.0)
    whole = await store.list("")
    kill_before(ending, tmp_path)
    assert len(await store.list(names.task(SMALL))) == left
    assert [creation.task_id for creation in await creations.under_way(store)] == ["small"]
    leftovers = Leftovers(store, clock=clock)
    for clock.now in (1000.0, 1000.0 + QUIET_S):
        await leftovers.sweep()
        assert len(await store.list(names.task(SMALL))) == left
    clock.now += 1
    await leftovers.sweep()
    assert await store.list("") == whole
    await catalog.create(task(), model(*SPECS), WEIGHTS, request_id="", now=1.0)


async def test_a_task_that_is_created_after_all_is_whole_when_it_is_swept(
    store: DirectoryBlobStore, tmp_path: Path
) -> None:
    clock = Clock()
    leftovers = Leftovers(store, clock=clock)
    kill_before("task.json", tmp_path)
    await leftovers.sweep()
    catalog = Catalog(store, max_bytes=LIMIT)
    await catalog.create(task(), model(*SPECS), bytes(24), request_id="", now=1.0)
    clock.now += QUIET_S + 1
    await leftovers.sweep()
    assert len(await store.list("")) == 3
    version = await catalog.version(SMALL, None)
    assert b"".join([chunk async for chunk in catalog.weights(version, chunk_size=7)]) == bytes(24)


async def test_what_an_upload_is_about_to_publish_is_not_swept(store: DirectoryBlobStore, tmp_path: Path) -> None:
    # What should happen: what was left of an earlier creation is old enough, and stays while another one goes on.
    clock, arrived, may_go = Clock(), asyncio.Event(), asyncio.Event()
    leftovers = Leftovers(store, clock=clock)
    kill_before("task.json", tmp_path)
    await leftovers.sweep()

    async def slow() -> AsyncGenerator[bytes, None]:
        yield bytes(12)
        arrived.set()
        await may_go.wait()
        yield bytes(12)

    catalog = Catalog(store, max_bytes=LIMIT)
    clock.now += QUIET_S / 2
    creating = asyncio.create_task(
        catalog.create(task(), model(*SPECS), OfferedWeights(24, slow()), request_id="", now=1.0)
    )
    await arrived.wait()
    await leftovers.sweep()
    clock.now += QUIET_S / 2 + 1
    await leftovers.sweep()
    assert len(await store.list(names.task(SMALL))) == 2
    assert len(await creations.under_way(store)) == 1
    may_go.set()
    await creating
    version = await catalog.version(SMALL, None)
    assert b"".join([chunk async for chunk in catalog.weights(version, chunk_size=7)]) == bytes(24)


async def test_a_clearing_whose_process_was_killed_hinders_nobody_for_ever(
    store: DirectoryBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creations, "FIRST_WAIT_S", 0.0)
    clock = Clock()
    leftovers = Leftovers(store, clock=clock)
    await store.write(names.clearing(SMALL, "ab"), [b""])
    await leftovers.sweep()
    clock.now += QUIET_S + 1
    await leftovers.sweep()
    assert await store.list("") == []


async def test_a_mark_that_a_killed_process_left_holds_its_room_until_it_is_swept(
    store: DirectoryBlobStore, tmp_path: Path
) -> None:
    # What should happen: the same task may be created in the meantime.
    kill_before("task.json", tmp_path)
    catalog = Catalog(store, max_bytes=LIMIT, quotas=Quotas(store, max_tasks=1))
    with pytest.raises(QuotaExceeded):
        await catalog.create(task("other"), model(*SPECS), WEIGHTS, request_id="", now=1.0)
    await catalog.create(task(), model(*SPECS), bytes(24), request_id="", now=1.0)


async def test_an_upload_that_breaks_off_leaves_nothing(store: DirectoryBlobStore, tmp_path: Path) -> None:
    async def broken() -> AsyncGenerator[bytes, None]:
        yield bytes(12)
        raise StreamStalled(seconds="1")

    for came in (WEIGHTS[:12], np.full(6, np.nan, "<f4").tobytes()):
        with pytest.raises(Exception, match=r"bytes were announced|frozen|head|finite"):
            await Catalog(store, max_bytes=LIMIT).create(task(), model(*SPECS), came, request_id="", now=1.0)
    with pytest.raises(StreamStalled):
        await Catalog(store, max_bytes=LIMIT).create(
            task(), model(*SPECS), OfferedWeights(24, broken()), request_id="", now=1.0
        )
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
