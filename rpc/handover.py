"""Weights from one process to another on the same machine: a file in memory that both can open, its name in the call.

A stream of 4 MB costs both sides five milliseconds of CPU time; writing and reading a file whose pages are there
already, half of one. Whoever hands over owns the file and has it mapped: weights are put straight into it, in a *room*.
The file is used again, under another name, once nothing refers to the room any more. Whoever takes reads the file into
memory of its own, and believes nothing that does not have the checksum: a caller that gave up may be writing the next
weights over it. Where a file cannot be read, weights are streamed.

    <folder>/<owner>.lock      locked as long as the owner lives; without it, its files are left over
    <folder>/<owner>.<name>    weights; the name is drawn anew for each

Knows files and checksums; nothing of weights, nor of which call tells of them. The checksum is XXH3 with 128 bits: it
tells torn bytes from whole ones, and proves nothing (docs/decisions/0008-digests-of-partial-sums.md).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import secrets
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import structlog
import xxhash
from disco.aggregator.v1.handover_pb2 import HandedOver

from rpc.chunks import Buffer

LIMIT_BYTES = 256 << 20
"""Of all files of one process; what does not fit is streamed."""
SPARE_BYTES = 128 << 20
"""Of those that wait to be used again."""
STREAMED_FOR_S = 30.0
"""After a file could not be read: a process on a machine of its own never can."""
LOCK_SUFFIX = ".lock"

_log = structlog.stdlib.get_logger("rpc")
_NAME = re.compile(r"[0-9a-f]{32}\.[0-9a-f]{32}")
_OWN_FILE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
_FOREIGN_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0)


class FileUnreadable(Exception):
    """The file is not there, or is not what was handed over."""


@dataclass(slots=True)
class _File:
    name: str
    descriptor: int
    mapping: mmap.mmap
    size: int
    """How many bytes it has room for without growing."""
    told: HandedOver | None = None
    """What was said of the weights that are in it."""


class Handover:
    """What one process hands over and takes. Open with `open`; close it when no call is under way any more.

    Rooms may be asked for in any thread, and are given back in the one that refers to them last.
    """

    def __init__(self, folder: Path, owner: str, lock: int) -> None:
        self.folder = folder
        self._owner = owner
        self._lock = lock
        self._bytes = 0
        self._spare: list[_File] = []
        self._spare_bytes = 0
        self._rooms: dict[int, _File] = {}
        self._given_back: deque[_File] = deque()
        self._changing = threading.Lock()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Removes what processes left there that are gone. Raises OSError where the folder cannot be used."""
        while True:
            owner = secrets.token_hex(16)
            path = folder / f"{owner}{LOCK_SUFFIX}"
            lock = os.open(path, _OWN_FILE | os.O_EXCL, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                break
            os.close(lock)  # somebody who sweeps had it before us, and took it for left over
        _sweep(folder, living=owner)
        return cls(folder, owner, lock)

    def room(self, size: int) -> memoryview | None:
        """So many bytes of a file, to be written once; None where there is no room."""
        with self._changing:
            self._sort_out()
            file = self._take(size)
            if file is None:
                return None
            room = np.frombuffer(file.mapping, np.uint8, count=size)
            self._rooms[id(room)] = file
        weakref.finalize(room, self._give_back, id(room), file).atexit = False
        return room.data

    def told(self, room: Buffer) -> HandedOver | None:
        """What to tell of a room that is written, from the first call on; None where these bytes lie in no room."""
        file = self._rooms.get(id(memoryview(room).obj))
        if file is None:
            return None
        if file.told is None:
            file.told = HandedOver(name=file.name, size=len(room), xxh3=xxhash.xxh3_128_digest(room))
        return file.told

    def filled(self, room: memoryview, octets: Buffer) -> HandedOver:
        """Writes a room; what to tell of it."""
        room[:] = octets
        told = self.told(room)
        assert told is not None, "it is a room of ours"
        return told

    def taken(self, handed_over: HandedOver) -> memoryview:
        """The bytes that another process handed over. Raises FileUnreadable."""
        if not _NAME.fullmatch(handed_over.name):
            raise FileUnreadable
        octets = np.empty(handed_over.size, np.uint8).data  # not zeroed first
        try:
            descriptor = os.open(self.folder / handed_over.name, _FOREIGN_FILE)
            try:
                read = os.preadv(descriptor, [octets], 0)
            finally:
                os.close(descriptor)
        except OSError:
            raise FileUnreadable from None
        if read != len(octets) or xxhash.xxh3_128_digest(octets) != handed_over.xxh3:
            raise FileUnreadable
        return octets

    @property
    def spare_bytes(self) -> int:
        """Of files that wait to be used again."""
        with self._changing:
            self._sort_out()
            return self._spare_bytes

    def close(self) -> None:
        with self._changing:
            self._sort_out()
            for file in [*self._spare, *self._rooms.values()]:
                self._remove(file)
            self._spare.clear()
        with suppress(OSError):
            os.unlink(self.folder / f"{self._owner}{LOCK_SUFFIX}")
        os.close(self._lock)

    def _take(self, size: int) -> _File | None:
        fitting = [file for file in self._spare if file.size >= size]
        if fitting:
            file = min(fitting, key=lambda spare: spare.size)
            self._spare.remove(file)
            self._spare_bytes -= file.size
            # Who was told the old name and did not read yet must not find other weights under it.
            return self._renamed(file)
        if not size or self._bytes + size > LIMIT_BYTES:
            return None
        try:
            return self._made(size)
        except OSError as error:
            # No room, or the folder is gone: then weights are streamed, as where there is none.
            _log.warning("handover.no_room", because=error.strerror)
            return None

    def _made(self, size: int) -> _File:
        name = self._new_name()
        descriptor = os.open(self.folder / name, _OWN_FILE | os.O_EXCL, 0o600)
        try:
            # Written once, so that no memory is missing later: who writes to a page that cannot be had is killed.
            nothing, written = memoryview(bytes(size)), 0
            while written < size:
                written += os.pwrite(descriptor, nothing[written:], written)
            mapping = mmap.mmap(descriptor, size)
        except BaseException:
            os.close(descriptor)
            os.unlink(self.folder / name)
            raise
        self._bytes += size
        return _File(name, descriptor, mapping, size)

    def _renamed(self, file: _File) -> _File | None:
        name = self._new_name()
        try:
            os.rename(self.folder / file.name, self.folder / name)
        except OSError:
            self._remove(file)
            return None
        file.name, file.told = name, None
        return file

    def _give_back(self, room: int, file: _File) -> None:
        """Waits for nobody: it may be the collector of garbage that calls, at any moment and in any thread."""
        self._rooms.pop(room, None)
        self._given_back.append(file)
        if self._changing.acquire(blocking=False):
            try:
                self._sort_out()
            finally:
                self._changing.release()

    def _sort_out(self) -> None:
        while self._given_back:
            file = self._given_back.popleft()
            if self._spare_bytes + file.size > SPARE_BYTES:
                self._remove(file)
            else:
                self._spare.append(file)
                self._spare_bytes += file.size

    def _remove(self, file: _File) -> None:
        self._bytes -= file.size
        with suppress(OSError):
            os.unlink(self.folder / file.name)
        with suppress(BufferError):  # somebody refers to the room still: the mapping goes with it
            file.mapping.close()
        os.close(file.descriptor)

    def _new_name(self) -> str:
        return f"{self._owner}.{secrets.token_hex(16)}"


@contextmanager
def opened(folder: Path | None) -> Iterator[Handover | None]:
    """A handover while the block runs; None where there is no folder, or it cannot be used, which is logged."""
    try:
        handover = None if folder is None else Handover.open(folder)
    except OSError as error:
        _log.warning("handover.impossible", folder=str(folder), because=error.strerror)
        handover = None
    try:
        yield handover
    finally:
        if handover is not None:
            handover.close()


def _sweep(folder: Path, *, living: str) -> None:
    """Removes the files of owners that hold their lock no more."""
    for lock in folder.glob(f"*{LOCK_SUFFIX}"):
        owner = lock.name.removesuffix(LOCK_SUFFIX)
        if owner == living:
            continue
        with suppress(OSError):  # its owner lives, or somebody else sweeps, too
            descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0))
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for path in folder.glob(f"{owner}.*"):
                    path.unlink(missing_ok=True)
            finally:
                os.close(descriptor)
