"""The image is built from all that is installed, and from nothing else."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

WITH_IT = {"pyproject.toml", "README.md", "requirements.txt", "requirements-build.txt", "requirements-test.txt"}


def test_every_package_that_is_installed_gets_into_the_image() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    installed = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == {each.split("/")[0] for each in installed} | WITH_IT
