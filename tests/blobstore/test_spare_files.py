"""Slots that are deleted are slots again, and nobody sees the bytes that were in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from blobstore.directory import WRITING, DirectoryBlobStore
from blobstore.spare_files import SpareFiles

FIRST, SECOND = "sums/titanic/000000000001/replica.0", "sums/titanic/000000000002/replica.0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "spare").mkdir()
    return tmp_path / "spare"


@pytest.mark.parametrize("later", [b"", b"short", b"as long as that", b"longer than what was there before"])
async def test_a_slot_begins_as_one_that_was_deleted_and_holds_what_is_written(tmp_path: Path, later: bytes) -> None:
    async with DirectoryBlobStore(tmp_path) as store:
        await store.write_slot(FIRST, [b"as long as this"])
        file = (tmp_path / FIRST).stat().st_ino
        await store.delete(FIRST)
        assert await store.list("") == []
        assert not (tmp_path / "sums").exists()
        await store.write_slot(SECOND, [later])
        assert (tmp_path / SECOND).stat().st_ino == file
        assert await store.read(SECOND) == later
        assert await store.list("") == [SECOND]
        await store.delete(SECOND)
    assert list((tmp_path / WRITING).iterdir()) == []


async def test_a_blob_that_is_no_slot_is_deleted(tmp_path: Path) -> None:
    async with DirectoryBlobStore(tmp_path) as store:
        await store.write("tasks/titanic/task.json", [b"a task"])
        await store.delete("tasks/titanic/task.json")
        assert list((tmp_path / WRITING).iterdir()) == []


def test_no_more_is_kept_than_the_limit(tmp_path: Path, folder: Path) -> None:
    spare = SpareFiles(str(folder), limit_bytes=10)
    for name, size in (("a", 6), ("b", 5), ("c", 4)):
        (tmp_path / name).write_bytes(bytes(size))
        spare.keep(str(tmp_path / name))
    assert (tmp_path / "b").exists()
    assert sorted(file.stat().st_size for file in folder.iterdir()) == [4, 6]
    spare.use(str(tmp_path / "d"))  # one of four
    spare.keep(str(tmp_path / "b"))
    assert (tmp_path / "d").stat().st_size == 4
    assert [file.stat().st_size for file in folder.iterdir()] == [6]
    spare.use(str(tmp_path / "e"))
    spare.keep(str(tmp_path / "b"))
    assert [file.stat().st_size for file in folder.iterdir()] == [5]


def test_a_slot_that_is_there_stays(tmp_path: Path, folder: Path) -> None:
    spare = SpareFiles(str(folder))
    (tmp_path / "old").write_bytes(b"old")
    spare.keep(str(tmp_path / "old"))
    (tmp_path / "slot").write_bytes(b"committed")
    spare.use(str(tmp_path / "slot"))
    assert (tmp_path / "slot").read_bytes() == b"committed"


def test_a_spare_file_that_somebody_removed_is_not_missed(tmp_path: Path, folder: Path) -> None:
    spare = SpareFiles(str(folder))
    (tmp_path / "old").write_bytes(b"old")
    spare.keep(str(tmp_path / "old"))
    for file in folder.iterdir():
        file.unlink()
    spare.use(str(tmp_path / "sub" / "slot"))
    spare.keep(str(tmp_path / "sub" / "slot"))
    assert list((tmp_path / "sub").iterdir()) == list(folder.iterdir()) == []
