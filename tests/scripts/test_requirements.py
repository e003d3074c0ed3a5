"""The pinned requirements are those of pyproject.toml, and name no place to fetch them from."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PIN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9][0-9a-z.]*( ; .+)?")


def wanted(*extras: str) -> list[Requirement]:
    project = PROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return [Requirement(line) for line in lines]


def pinned(name: str) -> list[Requirement]:
    return [Requirement(line) for line in (ROOT / name).read_text().splitlines()]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-build.txt", "requirements-test.txt"])
def test_every_line_is_one_exact_version_and_nothing_else(name: str) -> None:
    assert [line for line in (ROOT / name).read_text().splitlines() if not PIN.fullmatch(line)] == []


@pytest.mark.parametrize(
    ("name", "requirements"),
    [
        ("requirements.txt", wanted()),
        ("requirements-test.txt", wanted("demo", "test")),
        ("requirements-build.txt", [Requirement(line) for line in PROJECT["dependency-groups"]["build"]]),
    ],
)
def test_every_dependency_is_pinned_within_its_bounds(name: str, requirements: list[Requirement]) -> None:
    pins = pinned(name)
    for requirement in requirements:
        versions = [
            next(iter(pin.specifier)).version
            for pin in pins
            if canonicalize_name(pin.name) == canonicalize_name(requirement.name)
        ]
        assert versions, f"{requirement.name} is not in {name}: make requirements"
        assert all(requirement.specifier.contains(version) for version in versions), (
            f"{name} has {requirement.name} {versions}, not {requirement.specifier}: make requirements"
        )


def test_tests_run_on_what_is_deployed() -> None:
    assert set(map(str, pinned("requirements.txt"))) - set(map(str, pinned("requirements-test.txt"))) <= {
        pin for pin in map(str, pinned("requirements.txt")) if pin.startswith("setuptools==")
    }


def test_build_backend_is_the_one_that_is_pinned() -> None:
    names = {Requirement(line).name for line in PROJECT["build-system"]["requires"]}
    assert names <= {pin.name for pin in pinned("requirements-build.txt")}
    assert requires("disco-server") is not None
