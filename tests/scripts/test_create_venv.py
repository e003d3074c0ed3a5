"""Which Python the virtual environment is made with, and the one sentence where there is none that will do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "create-venv"
OLD = 'case "$1" in --version) echo "Python 3.9.18";; *) exit 1;; esac'
WITHOUT_VENV = 'case "$*" in --version) echo "Python 3.11.2";; *ensurepip*) exit 1;; esac'
BROKEN_SHIM = "echo 'command not found' >&2; exit 127"
MAKES_A_FOLDER = (
    'case "$*" in --version) echo "Python 3.12.1";; "-m venv --clear "*) mkdir "$4"; basename "$0" >"$4/made-by";; esac'
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder of programs that is all there is."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("sh", "mkdir", "basename"):
        (folder / tool).symlink_to(Path("/bin", tool).resolve() if tool == "sh" else Path("/usr/bin", tool))
    return folder


def program(path: Path, name: str, *, script: str) -> None:
    (path / name).write_text(f"#!/bin/sh\n{script}\n")
    (path / name).chmod(0o755)


def create(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(SCRIPT), str(path.parent / "venv"), *arguments],
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_python_that_is_new_enough_is_taken(path: Path) -> None:
    program(path, "python3", script=MAKES_A_FOLDER)
    assert create(path).stdout == f"Creating {path.parent}/venv with Python 3.12.1.\n"
    assert (path.parent / "venv" / "made-by").read_text() == "python3\n"


def test_newer_one_is_found_behind_one_that_is_too_old_and_one_that_is_broken(path: Path) -> None:
    program(path, "python3", script=OLD)
    program(path, "python3.13", script=BROKEN_SHIM)
    program(path, "python3.12", script=MAKES_A_FOLDER)
    assert create(path).returncode == 0
    assert (path.parent / "venv" / "made-by").read_text() == "python3.12\n"


def test_python_that_was_asked_for_comes_first(path: Path) -> None:
    program(path, "python3", script=MAKES_A_FOLDER)
    program(path, "mine", script=MAKES_A_FOLDER)
    assert create(path, "mine").returncode == 0
    assert (path.parent / "venv" / "made-by").read_text() == "mine\n"


def test_python_that_is_too_old_is_one_sentence(path: Path) -> None:
    program(path, "python3", script=OLD)
    ended = create(path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        1,
        "",
        "Disco needs Python 3.11 or newer, and `python3` is Python 3.9.18: "
        "install one, or name it with `make PYTHON=/path/to/python3.12`.\n",
    )


def test_no_python_at_all_is_one_sentence(path: Path) -> None:
    assert create(path).stderr == (
        "Disco needs Python 3.11 or newer, and `python3` is not there: "
        "install one, or name it with `make PYTHON=/path/to/python3.12`.\n"
    )


def test_python_without_venv_is_one_sentence(path: Path) -> None:
    program(path, "python3", script=WITHOUT_VENV)
    ended = create(path)
    assert (ended.returncode, ended.stderr) == (
        1,
        "Python 3.11.2 cannot create virtual environments: "
        "install its venv module (Debian, Ubuntu: apt install python3-venv).\n",
    )


def test_real_python_makes_a_real_environment(tmp_path: Path) -> None:
    subprocess.run(["/bin/sh", str(SCRIPT), str(tmp_path / "venv"), sys.executable], check=True, capture_output=True)
    said = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-m", "pip", "--version"], check=True, capture_output=True, text=True
    )
    assert said.stdout.startswith("pip ")
