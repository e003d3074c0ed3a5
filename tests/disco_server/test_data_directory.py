"""One launcher at a time on one directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from disco_server.cannot_start import CannotStart
from disco_server.data_directory import locked

HOLDER = """
import sys
from pathlib import Path
from disco_server.data_directory import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / "lock").read_text() == f"{os.getpid()}\n"


def test_second_launcher_is_told_who_holds_the_directory_until_that_one_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(CannotStart) as refused, locked(tmp_path):
            pytest.fail("two hold it")
        holder.kill()
        holder.wait()
    assert str(refused.value) == (
        f"The data directory {tmp_path} is already used by process {holder.pid}: "
        "stop that one, or choose another directory with DISCO_DATA_DIR."
    )
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_path_that_cannot_be_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStart) as refused, locked(tmp_path / "file"):
        pytest.fail("a file was held")
    assert str(refused.value) == (
        f"The data directory {tmp_path / 'file'} cannot be used (File exists): choose another with DISCO_DATA_DIR."
    )
