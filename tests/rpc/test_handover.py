"""Weights that change hands in files: what is taken is what was written, or nothing is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from disco.aggregator.v1.handover_pb2 import HandedOver
from hypothesis import given
from hypothesis import strategies as st

from rpc import handover as handover_module
from rpc.handover import FileUnreadable, Handover, Lent, opened

A, B = b"a" * 5000, b"b" * 5000


@pytest.fixture
def giver(tmp_path: Path) -> Iterator[Handover]:
    with opened(tmp_path) as handover:
        assert handover is not None
        yield handover


@pytest.fixture
def taker(tmp_path: Path) -> Iterator[Handover]:
    with opened(tmp_path) as handover:
        assert handover is not None
        yield handover


def written(lent: Lent | None, octets: bytes) -> HandedOver:
    assert lent is not None
    told = lent.written(octets)
    assert told is not None
    return told


def test_taker_gets_the_bytes_that_were_written(giver: Handover, taker: Handover) -> None:
    with giver.lent(len(A)) as lent:
        assert taker.taken(written(lent, A)) == A


def test_file_is_used_again_under_another_name(giver: Handover, taker: Handover, tmp_path: Path) -> None:
    with giver.lent(len(A)) as lent:
        first = written(lent, A)
    inode = (tmp_path / first.name).stat().st_ino
    with giver.lent(len(B) - 1) as lent:
        second = written(lent, B[1:])
        assert (tmp_path / second.name).stat().st_ino == inode
        assert second.name != first.name
        assert taker.taken(second) == B[1:]
        with pytest.raises(FileUnreadable):
            taker.taken(first)


def test_two_that_are_lent_at_once_do_not_mix(giver: Handover, taker: Handover) -> None:
    with giver.lent(len(A)) as first, giver.lent(len(B)) as second:
        told = written(first, A), written(second, B)
        assert [taker.taken(each) for each in told] == [A, B]


def test_bytes_that_changed_meanwhile_are_not_taken(giver: Handover, taker: Handover, tmp_path: Path) -> None:
    with giver.lent(len(A)) as lent:
        told = written(lent, A)
        with open(tmp_path / told.name, "r+b") as file:
            file.seek(4000)
            file.write(b"b")
        with pytest.raises(FileUnreadable):
            taker.taken(told)


def test_file_that_is_shorter_than_told_is_not_taken(giver: Handover, taker: Handover, tmp_path: Path) -> None:
    with giver.lent(len(A)) as lent:
        told = written(lent, A)
        os.truncate(tmp_path / told.name, 4999)
        with pytest.raises(FileUnreadable):
            taker.taken(told)


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{32}[./][0-9a-f]{32}", fullmatch=True))
def test_no_name_leads_out_of_the_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("handover")
    with opened(folder) as handover:
        assert handover is not None
        with pytest.raises(FileUnreadable):
            handover.taken(HandedOver(name=name, size=1, xxh3=b""))


def test_link_is_not_followed(giver: Handover, taker: Handover, tmp_path: Path) -> None:
    with giver.lent(len(A)) as lent:
        told = written(lent, A)
        path = tmp_path / told.name
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(FileUnreadable):
            taker.taken(told)


def test_there_is_no_room_beyond_the_limit(giver: Handover, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover_module, "LIMIT_BYTES", 9000)
    with giver.lent(5000) as first, giver.lent(5000) as second:
        assert first is not None
        assert second is None
    with giver.lent(5000) as again:
        assert again is not None


def test_room_of_files_that_are_not_kept_is_given_back(
    giver: Handover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover_module, "LIMIT_BYTES", 9000)
    monkeypatch.setattr(handover_module, "SPARE_BYTES", 0)
    for _ in range(3):
        with giver.lent(5000) as lent:
            written(lent, A)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_small_spare_file_is_not_taken_for_larger_weights(giver: Handover, taker: Handover) -> None:
    with giver.lent(10) as lent:
        written(lent, A[:10])
    with giver.lent(len(A)) as lent:
        assert taker.taken(written(lent, A)) == A


def test_folder_that_is_gone_lends_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "handover"
    folder.mkdir()
    with opened(folder) as handover:
        assert handover is not None
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        with handover.lent(10) as lent:
            assert lent is None


def test_full_memory_is_no_error(giver: Handover, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with giver.lent(len(A)) as lent:
        assert lent is not None
        monkeypatch.setattr(os, "pwrite", full)
        assert lent.written(A) is None


def test_without_a_usable_folder_nothing_is_handed_over(tmp_path: Path) -> None:
    with opened(None) as handover:
        assert handover is None
    with opened(tmp_path / "not there") as handover:
        assert handover is None


def test_end_leaves_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as handover:
        assert handover is not None
        with handover.lent(len(A)) as lent:
            written(lent, A)
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_and_nothing_of_the_living(giver: Handover, tmp_path: Path) -> None:
    dies = (
        "import os, signal, sys; from pathlib import Path; from rpc.handover import Handover\n"
        "with Handover.open(Path(sys.argv[1])).lent(5) as lent:\n"
        "    lent.written(b'12345'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", dies, str(tmp_path)], check=False)
    assert ended.returncode == -9
    with giver.lent(len(A)) as lent:
        told = written(lent, A)
        assert len(list(tmp_path.iterdir())) == 4
        with opened(tmp_path) as newcomer:
            assert newcomer is not None
            assert newcomer.taken(told) == A
            left = {path.name.split(".")[0] for path in tmp_path.iterdir()}
            assert len(left) == 2
