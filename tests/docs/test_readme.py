"""The README is true today: its settings, its links, its commands and its Python."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTING_ROW = re.compile(r"^\| `(DISCO_\w+)` \| (?:`(.*)`|–) \|", re.MULTILINE)
EXAMPLE_LINE = re.compile(r"^#?(DISCO_\w+)=(.*?)\s+# ", re.MULTILINE)


def test_the_table_of_settings_is_that_of_the_example_file() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert SETTING_ROW.findall(README) == EXAMPLE_LINE.findall(example)


def test_every_file_that_the_readme_names_exists() -> None:
    linked = re.findall(r"\]\(([^)#:]+)\)", README)
    to_open = re.findall(r"^\| .* \| (`.*`) \|$", README.split("| I want to know")[1].split("\n## ")[0], re.MULTILINE)
    named = [name for cell in to_open for name in re.findall(r"`([^`]+)`", cell)]
    assert len(linked) > 10
    assert len(named) >= 12
    # A cell may name a file beside the one before it.
    folders = [ROOT, *(ROOT / Path(name).parent for name in named)]
    for name in named:
        assert any((folder / name).exists() for folder in folders), name
    for name in linked:
        assert (ROOT / name).exists(), name


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"run", "test", "demo"} <= set(re.findall(r"\bmake ([a-z-]+)", README)) <= targets


def test_the_python_of_the_readme_is_refused_politely_where_nothing_listens() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    program = program.replace("127.0.0.1:50052", "127.0.0.1:1")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "StatusCode.UNAVAILABLE" in done.stderr  # every import, stub and message of it exists
