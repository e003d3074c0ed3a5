"""The demo as a user runs it, and what its participant may need of us: the stubs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_three_participants_learn_to_read_digits() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "examples.digits_demo", "--rounds", "8"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    shares = [float(share) for share in re.findall(r"[█░]+ +([0-9.]+)%", ended.stdout)]
    assert len(shares) == 9
    assert shares[0] < 30
    assert shares[-1] > 90
    assert len(re.findall(r"│ [23] contributions │", ended.stdout)) == 8  # one may come late to the first round


def test_participant_needs_nothing_of_ours_but_the_stubs() -> None:
    tree = ast.parse((ROOT / "examples" / "participant.py").read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.partition(".")[0] for module in modules} - set(sys.stdlib_module_names) == {
        "disco",
        "google",
        "grpc",
        "grpc_status",
        "numpy",
        "sklearn",
    }
