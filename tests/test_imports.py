"""The contracts between the packages hold, and would notice if they did not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("learning", "roundstore", "blobstore", "privacy", "rpc", "gateway", "services", "disco_server")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the contracts of pyproject.toml on the packages below a folder."""
    search = os.pathsep.join([str(folder), str(ROOT / "gen")])
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": search, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    # `services` is spread over the search path otherwise: over the copy and the installed one, of which either is read.
    (tmp_path / "services" / "__init__.py").touch()
    return tmp_path


def test_the_contracts_hold() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_copy_of_the_packages_passes(copy: Path) -> None:
    result = lint(copy)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("learning/task.py", "import grpc", "The rule book knows the standard library only"),
        ("learning/policy.py", "from rpc import status", "Processes stand on the shared packages"),
        ("rpc/server.py", "import redis", "How processes talk knows nothing of stores"),
        ("roundstore/store.py", "import grpc", "Stores know nothing of gRPC"),
        (
            "services/task_service/conversion/converting.py",
            "from services.task_service.conversion import keras_archive",
            "Files of strangers are read in a process of its own",
        ),
    ],
)
def test_an_import_that_breaks_a_contract_is_noticed(copy: Path, module: str, line: str, contract: str) -> None:
    changed = copy / module
    marker = "from __future__ import annotations\n"
    source = changed.read_text(encoding="utf-8")
    assert marker in source
    changed.write_text(source.replace(marker, f"{marker}\n{line}\n", 1), encoding="utf-8")
    result = lint(copy)
    assert result.returncode == 1
    broken = [row for row in result.stdout.splitlines() if row.endswith("BROKEN")]
    assert any(contract in row for row in broken), result.stdout
