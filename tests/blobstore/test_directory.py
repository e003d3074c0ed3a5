"""The directory store passes the suite, and stands killed writers, full disks and lost permissions."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio

from blobstore import files
from blobstore.directory import WRITING, DirectoryBlobStore
from blobstore.settings import Durability
from blobstore.store import BlobMissing, StoreFull
from learning.refusals import StoreUnavailable
from tests.blobstore.store_contract import LARGE, BlobStoreContract, pattern
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]


class TestDirectoryBlobStore(BlobStoreContract):
    @pytest_asyncio.fixture(params=["second", "always"])
    async def store(self, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[DirectoryBlobStore]:
        async with DirectoryBlobStore(tmp_path / "data", durability=request.param) as store:
            yield store

    @pytest_asyncio.fixture
    async def other(self, tmp_path: Path) -> AsyncIterator[DirectoryBlobStore]:
        async with DirectoryBlobStore(tmp_path / "data") as store:
            yield store


# Readers


async def test_who_only_reads_makes_nothing_and_finds_what_others_write_later(tmp_path: Path) -> None:
    """As a service that has the directory mounted without a right to write, and may start before those that write."""
    data = tmp_path / "data"
    async with DirectoryBlobStore(data, reads_only=True) as reader:
        with pytest.raises(BlobMissing):
            await reader.read("a")
        assert await reader.list("") == []
        assert not data.exists()
        async with DirectoryBlobStore(data) as writer:
            await writer.write("a", [b"x"])
        assert await reader.read("a") == b"x"


async def test_who_only_reads_leaves_what_a_killed_writer_left(tmp_path: Path) -> None:
    left = tmp_path / WRITING / "left"
    left.parent.mkdir()
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    async with DirectoryBlobStore(tmp_path, reads_only=True):
        assert left.exists()
    async with DirectoryBlobStore(tmp_path):
        assert not left.exists()


# Killed writers

KILLED = """
import asyncio, sys
from blobstore.directory import DirectoryBlobStore

async def write() -> None:
    store = DirectoryBlobStore(sys.argv[1])
    parts = [[bytes([index]) * 20_000_000] for index in range(2)]
    print("writing", flush=True)
    while True:
        for part in parts:
            await store.write("tasks/a/weights/new", part, replace=True)

asyncio.run(write())
"""


def kill_while_writing(directory: Path, after_s: float) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(directory)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"writing\n"
    written = directory / "tasks" / "a" / "weights" / "new"
    over = time.monotonic() + 20
    while not written.exists() and time.monotonic() < over:
        time.sleep(0.001)
    time.sleep(after_s)  # anywhere in the middle of the next write
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()


async def test_a_writer_killed_in_the_middle_leaves_the_old_blob_or_the_new(tmp_path: Path) -> None:
    whole = [bytes([index]) * 20_000_000 for index in range(2)]
    left_over = 0
    for attempt in range(5):
        kill_while_writing(tmp_path, after_s=0.003 * attempt)
        async with DirectoryBlobStore(tmp_path) as store:
            assert await store.read("tasks/a/weights/new") in whole
            assert await store.list("") == ["tasks/a/weights/new"]
            await store.delete("tasks/a/weights/new")
        left_over = len(list((tmp_path / WRITING).iterdir()))
    assert left_over > 0, "no writer was killed in the middle; the test shows nothing"


async def test_what_a_killed_writer_left_is_removed_after_an_hour(tmp_path: Path) -> None:
    (tmp_path / WRITING).mkdir()
    for name, age_s in (("young", 3500), ("old", 3700)):
        (tmp_path / WRITING / name).write_bytes(b"part")
        os.utime(tmp_path / WRITING / name, (time.time() - age_s,) * 2)
    async with DirectoryBlobStore(tmp_path) as store:
        assert [path.name for path in (tmp_path / WRITING).iterdir()] == ["young"]
        assert await store.list("") == []


STAGING = """
import asyncio, sys
from blobstore.directory import DirectoryBlobStore

async def stage() -> None:
    store = DirectoryBlobStore(sys.argv[1])
    async with store.staged() as staged:
        await staged.append(bytes(5_000_000))
        print("staged", flush=True)
        sys.stdin.readline()

asyncio.run(stage())
"""


async def test_a_staged_blob_whose_writer_is_killed_has_no_name_and_is_swept_after_an_hour(tmp_path: Path) -> None:
    # What should happen: a store that is open all the time sweeps it, too, and not what somebody is writing.
    async with DirectoryBlobStore(tmp_path) as store, store.staged() as going_on:
        await going_on.append(b"young")
        writer = subprocess.Popen(
            [sys.executable, "-c", STAGING, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"staged\n"
        writer.kill()
        writer.communicate()
        assert await store.list("") == []
        sizes = {path.stat().st_size: path for path in (tmp_path / WRITING).iterdir()}
        assert sizes.keys() == {5, 5_000_000}
        await store.sweep()
        assert len(list((tmp_path / WRITING).iterdir())) == 2
        os.utime(sizes[5_000_000], (time.time() - 3700,) * 2)
        await store.sweep()
        assert list((tmp_path / WRITING).iterdir()) == [sizes[5]]
        await going_on.publish("a")
        assert await store.read("a") == b"young"


# Two processes

RACER = """
import asyncio, sys
from blobstore.directory import DirectoryBlobStore
from blobstore.store import BlobExists

async def race() -> None:
    store = DirectoryBlobStore(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    won = 0
    for index in range(200):
        try:
            await store.write(f"tasks/{index}/task.json", [sys.argv[2].encode()], replace=False)
            won += 1
        except BlobExists:
            pass
    print(won)

asyncio.run(race())
"""


async def test_of_two_processes_exactly_one_creates_each_blob(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for name in ("one", "two")
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == b"ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(b"go\n")
        racer.stdin.flush()
    won = [int(racer.communicate()[0]) for racer in racers]
    assert sum(won) == 200
    async with DirectoryBlobStore(tmp_path) as store:
        names = await store.list("")
        assert len(names) == 200
        owners = [await store.read(name) for name in names]
        assert [owners.count(b"one"), owners.count(b"two")] == won


# Disks that fail


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS, errno.EMFILE])
@pytest.mark.parametrize("size", [10, LARGE])
async def test_a_disk_that_fails_is_unavailable_and_the_old_blob_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, size: int
) -> None:
    async with DirectoryBlobStore(tmp_path) as store:
        await store.write("a/b", [b"old"])

        def fail(*_: object, **__: object) -> None:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as broken:
            broken.setattr(files, "_write", fail)
            for call in (store.write("a/b", [pattern(size)]), store.write_slot("a/c", [pattern(size)])):
                with pytest.raises(StoreUnavailable) as fault:
                    await call
                assert isinstance(fault.value.__cause__, OSError)
        assert await store.read("a/b") == b"old"
        assert list((tmp_path / WRITING).iterdir()) == []


async def test_a_full_disk_is_unavailable(tmp_path: Path) -> None:
    # The limit on a file's size stands in for the end of the disk; it comes in the middle of a part.
    script = """
import asyncio, resource, signal, sys
from blobstore.directory import DirectoryBlobStore
from learning.refusals import StoreUnavailable

async def fill() -> None:
    async with DirectoryBlobStore(sys.argv[1]) as store:
        await store.write("a", [b"old"])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        try:
            await store.write("a", [b"x" * 600_000] * 3)
        except StoreUnavailable:
            print((await store.read("a")).decode())

asyncio.run(fill())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout == b"old\n"
    assert list((tmp_path / WRITING).iterdir()) == []


async def test_a_staged_blob_for_which_the_disk_is_full_says_so_and_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What should happen: of the append that failed in the middle nothing counts, and nothing is left in the blob.
    async with DirectoryBlobStore(tmp_path) as store:
        pwrite, room = os.pwrite, [1_000_000]

        def short(descriptor: int, data: memoryview, place: int) -> int:
            if place >= room[0]:
                raise OSError(errno.ENOSPC, "full")
            return pwrite(descriptor, data[: room[0] - place], place)

        monkeypatch.setattr(os, "pwrite", short)
        async with store.staged() as staged:
            await staged.append(pattern(600_000, 1))
            for size in (600_000, 500_001, 2 * LARGE):
                with pytest.raises(StoreFull):
                    await staged.append(pattern(size, 2))
                assert staged.size == 600_000
            room[0] = 2_000_000
            await staged.append(b"end")
            assert staged.digest == hashlib.sha256(pattern(600_000, 1) + b"end").hexdigest()
            await staged.publish("a")
        assert await store.read("a") == pattern(600_000, 1) + b"end"
        assert list((tmp_path / WRITING).iterdir()) == []


async def test_a_staged_blob_that_is_not_published_leaves_no_byte_on_the_disk(tmp_path: Path) -> None:
    async with DirectoryBlobStore(tmp_path) as store:
        async with store.staged() as staged:
            await staged.append(pattern(LARGE))
            assert len(list((tmp_path / WRITING).iterdir())) == 1
        assert list((tmp_path / WRITING).iterdir()) == []


async def test_a_staged_file_that_was_cut_off_is_noticed_where_it_is_read(tmp_path: Path) -> None:
    async with DirectoryBlobStore(tmp_path) as store, store.staged() as staged:
        await staged.append(pattern(1000))
        (file,) = (tmp_path / WRITING).iterdir()
        os.truncate(file, 999)
        assert await staged.read_range(start=0, size=999) == pattern(1000)[:999]
        with pytest.raises(StoreUnavailable):
            await staged.read_range(start=0, size=1000)


def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable):
        DirectoryBlobStore(tmp_path / "file" / "data")


async def test_a_folder_that_cannot_be_listed_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with DirectoryBlobStore(tmp_path) as store:
        await store.write("a/b", [b""])

        def fail(_: object) -> None:
            raise PermissionError(errno.EACCES, "no")

        monkeypatch.setattr(os, "scandir", fail)
        with pytest.raises(StoreUnavailable):
            await store.list("a")


# Durability


class Synced:
    """Records what is synced, and may fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        self.fails = False
        self.called = asyncio.Event()
        self.first_may_go = threading.Event()
        self.first_may_go.set()
        self._loop = asyncio.get_running_loop()
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, descriptor: int) -> None:
        first = not self.called.is_set()
        self._loop.call_soon_threadsafe(self.called.set)
        if first:
            self.first_may_go.wait(timeout=10)
        if self.fails:
            raise OSError(errno.EIO, "broken")
        self.paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        self._fsync(descriptor)


@pytest.mark.skipif(not Path("/proc/self/fd").exists() and os.environ.get("CI") != "true", reason="needs /proc")
class TestDurability:
    @pytest.mark.parametrize("how", ["write", "create", "slot", "staged"])
    async def test_always_syncs_the_file_and_its_folders_before_it_returns(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Literal["write", "create", "slot", "staged"]
    ) -> None:
        async with DirectoryBlobStore(tmp_path, durability="always") as store:
            synced = Synced(monkeypatch)
            if how == "slot":
                await store.write_slot("a/b/c", [b"x"])
            elif how == "staged":
                async with store.staged() as staged:
                    await staged.append(b"x")
                    await staged.publish("a/b/c")
            else:
                await store.write("a/b/c", [b"x"], replace=how == "write")
            folders = {f"{tmp_path}{name}" for name in ("", "/a", "/a/b")}
            assert folders | {f"{tmp_path}/a/b/c"} <= set(synced.paths)
            if how != "slot":  # before the rename, so that the name never shows an empty file
                assert synced.paths[0].startswith(f"{tmp_path}/{WRITING}/")

    @pytest.mark.parametrize("durability", ["always", "second"])
    async def test_a_blob_of_somebody_who_died_before_it_was_synced_is_synced_and_stays_the_same_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability
    ) -> None:
        digest = hashlib.sha256(b"weights").hexdigest()
        path = tmp_path / "a" / digest
        path.parent.mkdir()
        path.write_bytes(b"weights")
        written = path.stat()
        synced = Synced(monkeypatch)
        async with DirectoryBlobStore(tmp_path, durability=durability) as store:
            await store.keep(f"a/{digest}", [b"weights"], digest=digest)
            await store.settle()
            assert {f"{tmp_path}/a/{digest}", f"{tmp_path}/a"} <= set(synced.paths)
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)

    async def test_second_syncs_everything_within_a_second_and_not_before(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with DirectoryBlobStore(tmp_path) as store, asyncio.timeout(10):
            synced = Synced(monkeypatch)
            began = time.monotonic()
            await store.write("a/b", [b"x"])
            await store.write_slot("a/c", [b"x"])
            await store.write("a/gone", [b"x"])
            await store.delete("a/gone")
            async with store.staged() as staged:
                await staged.append(b"x")
                await staged.publish("a/d")
            assert synced.paths == []
            await synced.called.wait()
            assert time.monotonic() - began >= 0.4

            async def all_synced() -> bool:
                return len(synced.paths) == 5

            await eventually(all_synced)
            assert sorted(synced.paths) == sorted(f"{tmp_path}{name}" for name in ("", "/a", "/a/b", "/a/c", "/a/d"))

    async def test_closing_syncs_what_is_left(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced = Synced(monkeypatch)
        async with DirectoryBlobStore(tmp_path) as store:
            await store.write("a", [b"x"])
        assert sorted(synced.paths) == [f"{tmp_path}", f"{tmp_path}/a"]

    async def test_closing_in_the_middle_of_a_sync_forgets_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced = Synced(monkeypatch)
        synced.first_may_go.clear()
        try:
            async with DirectoryBlobStore(tmp_path) as store:
                await store.write("a", [b"x"])
                await synced.called.wait()
            assert sorted(synced.paths) == [f"{tmp_path}", f"{tmp_path}/a"]
        finally:
            synced.first_may_go.set()

    async def test_where_a_sync_fails_nothing_more_is_acknowledged_until_one_succeeds(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with DirectoryBlobStore(tmp_path) as store:
            synced = Synced(monkeypatch)

            async def written() -> bool:
                try:
                    await store.write("b", [b"x"])
                except StoreUnavailable:
                    return False
                return True

            async def refused() -> bool:
                return not await written()

            synced.fails = True
            await store.write("a", [b"x"])
            await eventually(refused)
            assert synced.paths == []
            synced.fails = False
            await eventually(written)
            assert f"{tmp_path}/a" in synced.paths
