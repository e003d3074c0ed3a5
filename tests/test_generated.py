"""The generated code is what the protos say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    """Compares the generated code below a folder with the protos there."""
    command = [sys.executable, "protos/generate.py", "--check"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_generated_code_is_what_the_protos_say() -> None:
    result = check(ROOT)
    assert result.returncode == 0, result.stderr


def test_drift_is_noticed_and_named(tmp_path: Path) -> None:
    for name in ("protos", "gen"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    errors = tmp_path / "protos/disco/errors/v1/error_reason.proto"
    errors.write_text(errors.read_text(encoding="utf-8").replace("ERROR_REASON_INTERNAL", "ERROR_REASON_BUG"))
    (tmp_path / "gen/disco/task/v1/policy_pb2.py").unlink()
    result = check(tmp_path)
    assert result.returncode == 1
    named = result.stderr.strip().splitlines()[-1]
    assert "disco/errors/v1/error_reason_pb2.py" in named
    assert "disco/task/v1/policy_pb2.py" in named
    assert "disco/aggregator" not in named
