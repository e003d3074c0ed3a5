"""Weights that change hands in files: what is taken is what was written, or nothing is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from disco.aggregator.v1.handover_pb2 import HandedOver
from hypothesis import given
from hypothesis import strategies as st

from rpc import handover as handover_module
from rpc.handover import FileUnreadable, Handover, opened

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


@contextmanager
def lent(giver: Handover, octets: bytes) -> Iterator[HandedOver]:
    """What is told of these bytes, as long as somebody refers to the room that they are in."""
    room = giver.room(len(octets))
    assert room is not None
    yield giver.filled(room, octets)
    del room


def test_taker_gets_the_bytes_that_were_written(giver: Handover, taker: Handover) -> None:
    with lent(giver, A) as told:
        assert taker.taken(told) == A


def test_what_was_written_into_a_room_is_told_of_once(giver: Handover, taker: Handover) -> None:
    room = giver.room(len(A))
    assert room is not None
    room[:] = A
    told = giver.told(room)
    assert told is not None
    assert giver.told(room[:].cast("B")) is told  # whoever looks at it, and through whatever view
    assert taker.taken(told) == A


def test_bytes_that_lie_in_no_room_are_not_told_of(giver: Handover, taker: Handover) -> None:
    room = taker.room(len(A))
    assert room is not None
    for elsewhere in (A, bytearray(A), memoryview(A), room):
        assert giver.told(elsewhere) is None


def test_file_is_used_again_under_another_name(giver: Handover, taker: Handover, tmp_path: Path) -> None:
    with lent(giver, A) as first:
        inode = (tmp_path / first.name).stat().st_ino
    with lent(giver, B[1:]) as second:
        assert (tmp_path / second.name).stat().st_ino == inode
        assert second.name != first.name
        assert taker.taken(second) == B[1:]
        with pytest.raises(FileUnreadable):
            taker.taken(first)


def test_room_is_given_back_when_the_last_view_of_it_is_gone(giver: Handover) -> None:
    room = giver.room(len(A))
    assert room is not None
    part = room[10:20]
    del room
    assert giver.spare_bytes == 0
    del part
    assert giver.spare_bytes == len(A)


def test_room_that_is_given_back_while_another_is_taken_waits_until_that_is_done(giver: Handover) -> None:
    room = giver.room(len(A))
    with giver._changing:  # as where the collector of garbage finds the room just then
        del room
    assert giver.spare_bytes == len(A)


def test_many_threads_take_rooms_and_give_them_back(giver: Handover, taker: Handover) -> None:
    def hand_over(number: int) -> None:
        for turn in range(50):
            octets = bytes([number, turn]) * 2500
            with lent(giver, octets) as told:
                assert taker.taken(told) == octets

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(hand_over, range(6)))
    assert 0 < giver.spare_bytes <= 6 * 5000


def test_two_rooms_at_once_do_not_mix(giver: Handover, taker: Handover) -> None:
    with lent(giver, A) as first, lent(giver, B) as second:
        assert [taker.taken(each) for each in (first, second)] == [A, B]


def test_bytes_that_changed_meanwhile_are_not_taken(giver: Handover, taker: Handover, tmp_path: Path) -> None:
    with lent(giver, A) as told:
        with open(tmp_path / told.name, "r+b") as file:
            file.seek(4000)
            file.write(b"b")
        with pytest.raises(FileUnreadable):
            taker.taken(told)


def test_file_that_is_shorter_than_told_is_not_taken(giver: Handover, taker: Handover, tmp_path: Path) -> None:
    with lent(giver, A) as told:
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
    with lent(giver, A) as told:
        path = tmp_path / told.name
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(FileUnreadable):
            taker.taken(told)


def test_there_is_no_room_beyond_the_limit(giver: Handover, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover_module, "LIMIT_BYTES", 9000)
    first = giver.room(5000)
    assert first is not None
    assert giver.room(5000) is None
    del first
    assert giver.room(5000) is not None


def test_room_of_files_that_are_not_kept_is_given_back(
    giver: Handover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover_module, "LIMIT_BYTES", 9000)
    monkeypatch.setattr(handover_module, "SPARE_BYTES", 0)
    for _ in range(3):
        with lent(giver, A):
            assert len(list(tmp_path.iterdir())) == 2
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_small_spare_file_is_not_taken_for_larger_weights(giver: Handover, taker: Handover) -> None:
    with lent(giver, A[:10]):
        pass
    with lent(giver, A) as told:
        assert taker.taken(told) == A


def test_folder_that_is_gone_has_no_room(tmp_path: Path) -> None:
    folder = tmp_path / "handover"
    folder.mkdir()
    with opened(folder) as handover:
        assert handover is not None
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        assert handover.room(10) is None


def test_full_memory_is_no_error_and_leaves_nothing(
    giver: Handover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as filled:
        filled.setattr(os, "pwrite", full)
        assert giver.room(len(A)) is None
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert giver.room(len(A)) is not None


def test_room_for_nothing_is_none(giver: Handover) -> None:
    assert giver.room(0) is None


def test_without_a_usable_folder_nothing_is_handed_over(tmp_path: Path) -> None:
    with opened(None) as handover:
        assert handover is None
    with opened(tmp_path / "not there") as handover:
        assert handover is None


def test_end_leaves_nothing_and_what_somebody_still_refers_to_can_be_read(tmp_path: Path) -> None:
    with opened(tmp_path) as handover:
        assert handover is not None
        with lent(handover, A):
            pass
        room = handover.room(len(B))
        assert room is not None
        handover.filled(room, B)
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []
    assert room == B


def test_what_a_killed_process_left_is_swept_and_nothing_of_the_living(giver: Handover, tmp_path: Path) -> None:
    dies = (
        "import os, signal, sys; from pathlib import Path; from rpc.handover import Handover\n"
        "handover = Handover.open(Path(sys.argv[1])); room = handover.room(5)\n"
        "handover.filled(room, b'12345'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", dies, str(tmp_path)], check=False)
    assert ended.returncode == -9
    with lent(giver, A) as told:
        assert len(list(tmp_path.iterdir())) == 4
        with opened(tmp_path) as newcomer:
            assert newcomer is not None
            assert newcomer.taken(told) == A
            left = {path.name.split(".")[0] for path in tmp_path.iterdir()}
            assert len(left) == 2
