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
class RealClient:
    """One participant. `events` grows while it runs."""

    folder: Path
    options: dict[str, Any]
    script: str = "participant.cjs"
    arguments: list[str] | None = None
    """What the script is called with; by default the options as JSON."""
    events: list[dict[str, Any]] = field(default_factory=list)

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
                code = await self.process.wait()
        finally:
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
            words = (await said).decode(errors="replace")
        assert code == 0, f"the client failed: {self.events[-1:]}\n{words[-3000:]}"
        return self.events

    def of(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["event"] == event]
