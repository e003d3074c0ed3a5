"""The append-only file after a loss of power: cut behind its last whole command, so that Redis can read it.

A last command that was cut off is left out by Redis itself; zeros and garbage, which a file
system may leave where it had not written yet, keep it from starting. Redis' own checker does the cutting:
the server is that program, too, when it is called by its name. Knows no key.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

CHECKER = "redis-check-aof"
TAIL_BYTES = 1 << 20
CHECK_S = 600.0


def mend(program: Path, directory: Path) -> list[Path]:
    """The files of Redis that were cut; what they were lies beside each. Takes no time where nothing is torn."""
    return [path for path in _files(directory) if _may_be_torn(path) and _cut(program, path)]


def _files(directory: Path) -> list[Path]:
    """Those that are appended to: one, or since Redis 7 the newest of several."""
    return [*directory.glob("*.aof"), *directory.glob("appendonlydir/*.incr.aof")]


def _may_be_torn(path: Path) -> bool:
    """Whether its end is none, or has what no command of ours has in it."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - TAIL_BYTES, 0))
        tail = file.read()
    return size > 0 and (not tail.endswith(b"\r\n") or b"\0" in tail)


def _cut(program: Path, path: Path) -> bool:
    """Whether it was torn."""
    if _check(program, path).returncode == 0:
        return False
    shutil.copy2(path, path.with_name(f"{path.name}.torn"))
    _check(program, path, "--fix")
    return True


def _check(program: Path, path: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603
        [CHECKER, *options, path], executable=program, input=b"y\n", capture_output=True, timeout=CHECK_S, check=False
    )
