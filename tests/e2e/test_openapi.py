"""The HTTP API as its own OpenAPI document describes it: schemathesis makes requests from one and checks the other."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.system import ROOT, System

# A schema cannot say what msgpack inside of a body means: what it allows is refused all the same, by name.
CONFIG = """
[[operations]]
include-name = "POST /tasks"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-name = "PUT /tasks/{task_id}"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-name = "PATCH /tasks/{task_id}"
checks.positive_data_acceptance.enabled = false

[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 406, 413, 422, 428, "5xx"]
"""
KNOWN_TASK = """
[parameters]
"path.task_id" = "titanic"
"path.version" = 0
"""
# Or it would not be known any more.
NOT_DELETED = """
[[operations]]
include-name = "DELETE /tasks/{task_id}"
enabled = false
"""


@pytest.mark.parametrize("known", [False, True], ids=["any-task", "known-task"])
async def test_whatever_the_document_allows_or_forbids_is_answered_as_it_says(
    system: System, tmp_path: Path, known: bool
) -> None:
    # What should happen: each answer has a status, a type and a shape that are documented for it; what the document
    # forbids is refused.
    # What should not happen: 500, or a request without an answer.
    config = tmp_path / "schemathesis.toml"
    config.write_text((KNOWN_TASK if known else "") + CONFIG + (NOT_DELETED if known else ""))
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config)),
        *("run", f"{system.url}openapi.json", "--max-examples", "40", "--request-timeout", "20"),
        *("--generation-deterministic", "--suppress-health-check", "all", "--no-color"),
    ]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert str(ROOT) not in done.stdout
    assert (await system.get("readyz"))[0] == 200
