"""Files written whole, in place, or once: the blocking half of the directory store.

Knows paths, and nothing of names, event loops or settings. Every function may
raise OSError. Paths are texts: those of pathlib cost more here than some of what is done with them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from blobstore.store import Buffer

Result = TypeVar("Result")

FOLDER_ATTEMPTS = 100


def write_whole(
    path: str, temporary: str, parts: Sequence[Buffer], *, replace: bool, sync: bool, private: bool = False
) -> None:
    """Writes `temporary`, then gives it the name `path`: readers see all of it or nothing of it.

    Others than its owner can read it as the umask lets them, but never where it is `private`.
    Raises FileExistsError where `replace` is false and there is a file already; of two at once, one gets it.
    """
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        _write(descriptor, parts, sync=sync)
        # A link, unlike a rename, does not replace what is there.
        _in_folder(path, lambda: os.replace(temporary, path) if replace else os.link(temporary, path))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def move(temporary: str, path: str) -> None:
    """Gives a file that is written whole the name `path`, in the place of whatever has it."""
    _in_folder(path, lambda: os.replace(temporary, path))


def write_in_place(path: str, parts: Sequence[Buffer]) -> None:
    """Writes over the file that is there, from its start, and cuts it to the new length."""
    descriptor = _in_folder(path, lambda: os.open(path, os.O_WRONLY | os.O_CREAT, 0o666))
    _write(descriptor, parts, sync=False)


def _write(descriptor: int, parts: Sequence[Buffer], *, sync: bool) -> None:
    try:
        size = 0
        for part in parts:
            rest = memoryview(part).cast("B")
            size += len(rest)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        if os.fstat(descriptor).st_size != size:  # else nothing is cut off, which costs as much as cutting does
            os.ftruncate(descriptor, size)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _in_folder(path: str, act: Callable[[], Result]) -> Result:
    """Does what needs the folder of `path`, which `delete` of another file may remove at any moment."""
    for _ in range(FOLDER_ATTEMPTS):
        try:
            return act()
        except FileNotFoundError:
            # Either comes where a folder is removed between two steps of making it.
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                os.makedirs(os.path.dirname(path), exist_ok=True)
    return act()


def delete(path: str, root: str) -> None:
    """Removes a file, and the folders that are empty then. No error where it is not there."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
        os.unlink(path)
    with contextlib.suppress(OSError):  # not empty, most of the time
        for folder in _folders_of(path, root):
            os.rmdir(folder)


def _folders_of(path: str, root: str) -> Iterator[str]:
    """Those below `root` that lead to `path`, the innermost first."""
    while (path := os.path.dirname(path)) != root:
        yield path


def sync(paths: Iterable[str], root: str) -> None:
    """Makes files, and the folders that name them down from `root`, survive a loss of power."""
    folders = {root}.union(*(_folders_of(path, root) for path in paths))
    for path in (*paths, *folders):
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def names_below(folder: str, root: str) -> list[str]:
    """Every file below a folder, by its path from `root`, sorted. None where there is no such folder."""

    def fail(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise error

    found = []
    for where, _, files in os.walk(folder, onerror=fail):
        prefix = os.path.relpath(where, root)
        found += [file if prefix == "." else f"{prefix}/{file}" for file in files]
    return sorted(found)


def folders_in(folder: str) -> list[str]:
    """What the folders directly in a folder are called, sorted. None where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove_older(folder: str, seconds: float) -> None:
    """Removes the files of a folder that nobody wrote to for so long."""
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):  # somebody else was first, or it is finished
            if entry.stat().st_mtime < time.time() - seconds:
                os.unlink(entry.path)
