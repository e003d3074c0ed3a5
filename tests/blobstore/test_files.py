"""What the suite of the stores does not reach: folders that vanish again and again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from blobstore import files


def test_a_folder_that_vanishes_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    mkdir = Path.mkdir

    def vanishing(path: Path, parents: bool = False, exist_ok: bool = False) -> None:
        made.append(path)
        mkdir(path, parents=parents, exist_ok=exist_ok)
        if len(made) < 3:
            shutil.rmtree(path)

    monkeypatch.setattr(Path, "mkdir", vanishing)
    files.write_whole(tmp_path / "a" / "b", tmp_path / "temporary", [b"x"], replace=True, sync=False)
    assert made == [tmp_path / "a"] * 3
    assert (tmp_path / "a" / "b").read_bytes() == b"x"


def test_a_folder_that_never_stays_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    with pytest.raises(FileNotFoundError):
        files.write_whole(tmp_path / "a" / "b", tmp_path / "temporary", [b"x"], replace=True, sync=False)
    assert list(tmp_path.iterdir()) == []


def test_deleting_removes_empty_folders_up_to_the_root_only(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("a/b/c/1", "a/2"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    files.delete(root / "a/b/c/1", root)
    assert [path.name for path in (root / "a").iterdir()] == ["2"]
    files.delete(root / "a/2", root)
    assert root.exists()
    assert list(root.iterdir()) == []
