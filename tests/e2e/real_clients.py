"""The published Disco client, installed once and run as processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parent / "node"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def missing(what: str) -> None:
    """Skips where a developer's machine lacks a part; in CI nothing is skipped."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and in CI nothing may be skipped")
    pytest.skip(f"{what} is not installed here")


def install(folder: Path) -> Path:
    """Installs the client below `folder` if it is not there yet; returns the folder to run it from."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        missing("Node.js with npm")
    folder.mkdir(parents=True, exist_ok=True)
    for script in SCRIPTS.iterdir():
        if script.suffix in (".cjs", ".json"):
            shutil.copy(script, folder)
    wanted = (SCRIPTS / "package-lock.json").read_bytes()
    stamp = folder / "installed"
    if not stamp.exists() or stamp.read_bytes() != wanted:
        # The install scripts would fetch native libraries that these tests replace by pure ones.
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        stamp.write_bytes(wanted)
    (folder / "browser_bundle.js").unlink(missing_ok=True)
    return folder


def require_chromium() -> None:
    if not any(shutil.which(name) for name in CHROMIUM):
        missing("Chromium")


@dataclass
class Meeting:
    """Lets clients go on together, as often as they like: each waits until all have said that they wait.

    Peers need this. The published client begins to listen for the others' weights of a
    round when it deals with its list, and throws away what came before; then it waits for
    ever. On a busy machine the weights of a peer that was faster come first now and then,
    however the server hands out the lists (docs/wire-protocol.md, "weights before the list").
    It also gives up after 10 seconds without a list, while others may still be starting.
    """

    size: int
    _waiting: list[asyncio.subprocess.Process] = field(default_factory=list)

    def arrive(self, process: asyncio.subprocess.Process) -> None:
        self._waiting.append(process)
        if len(self._waiting) == self.size:
            for one in self._waiting:
                assert one.stdin is not None
                one.stdin.write(b"go\n")
            self._waiting.clear()


@dataclass
class RealClient:
    """One participant. `events` grows while it runs."""

    folder: Path
    options: dict[str, Any]
    script: str = "participant.cjs"
    arguments: list[str] | None = None
    """What the script is called with; by default the options as JSON."""
    events: list[dict[str, Any]] = field(default_factory=list)
    meeting: Meeting | None = None
    """Where it meets the others, where its options say that it "meets"."""

    async def run(self, *, seconds: float = 240) -> list[dict[str, Any]]:
        """Runs it to its end and returns everything it said; fails with its own words where it failed."""
        self.process = await asyncio.create_subprocess_exec(
            "node",
            self.script,
            *([json.dumps(self.options)] if self.arguments is None else self.arguments),
            cwd=self.folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 26,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        said = asyncio.create_task(self.process.stderr.read())
        try:
            async with asyncio.timeout(seconds):
                async for line in self.process.stdout:
                    self.events.append(json.loads(line))
                    if self.events[-1]["event"] == "meeting" and self.meeting is not None:
                        self.meeting.arrive(self.process)
                code: int | None = await self.process.wait()
        except TimeoutError:
            code = None
        finally:
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
            words = (await said).decode(errors="replace")
        outcome = "failed" if code is not None else f"had not ended after {seconds:g} s"
        assert code == 0, f"the client {outcome}: {self.events[-1:]}\n{words[-3000:]}"
        return self.events

    def of(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["event"] == event]
