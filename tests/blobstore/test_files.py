"""What the suite of the stores does not reach: folders that vanish again and again."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blobstore import files


def test_a_folder_that_vanishes_while_it_is_made_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    makedirs = os.makedirs

    def vanishing(path: str, exist_ok: bool = False) -> None:
        made.append(path)
        if len(made) == 1:
            raise FileNotFoundError("the folder of the folder is gone")
        if len(made) == 2:
            raise FileExistsError("it was there, and is no folder any more")
        makedirs(path, exist_ok=exist_ok)
        if len(made) == 3:
            shutil.rmtree(path)

    monkeypatch.setattr(os, "makedirs", vanishing)
    files.write_whole(str(tmp_path / "a" / "b"), str(tmp_path / "temporary"), [b"x"], replace=False, sync=False)
    assert made == [str(tmp_path / "a")] * 4
    assert (tmp_path / "a" / "b").read_bytes() == b"x"


def test_writers_and_deleters_of_one_folder_never_stand_in_each_others_way(tmp_path: Path) -> None:
    def churn(name: str) -> None:
        path = tmp_path / "a" / "b" / "c" / name
        for index in range(500):
            files.write_whole(str(path), str(tmp_path / f"~{name}"), [b"x"], replace=index % 2 == 0, sync=False)
            assert path.read_bytes() == b"x"
            files.delete(str(path), str(tmp_path))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(churn, "1234"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_never_stays_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "makedirs", lambda *_, **__: None)
    with pytest.raises(FileNotFoundError):
        files.write_whole(str(tmp_path / "a" / "b"), str(tmp_path / "temporary"), [b"x"], replace=True, sync=False)
    assert list(tmp_path.iterdir()) == []


def test_deleting_removes_empty_folders_up_to_the_root_only(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("a/b/c/1", "a/2"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    files.delete(str(root / "a/b/c/1"), str(root))
    assert [path.name for path in (root / "a").iterdir()] == ["2"]
    files.delete(str(root / "a/2"), str(root))
    assert root.exists()
    assert list(root.iterdir()) == []
