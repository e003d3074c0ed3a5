"""The folder in memory that processes of one launcher share."""

from __future__ import annotations

import stat
from pathlib import Path

from disco_server.handover_folder import handover_folder


def test_folder_is_the_users_alone_and_goes_with_what_is_in_it(tmp_path: Path) -> None:
    with handover_folder(tmp_path) as folder:
        assert folder is not None
        assert folder.parent == tmp_path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "left").write_bytes(b"by a process that was killed")
    assert list(tmp_path.iterdir()) == []


def test_two_launchers_share_none(tmp_path: Path) -> None:
    with handover_folder(tmp_path) as one, handover_folder(tmp_path) as other:
        assert one != other


def test_where_there_is_no_such_memory_there_is_no_folder(tmp_path: Path) -> None:
    with handover_folder(tmp_path / "not there") as folder:
        assert folder is None
