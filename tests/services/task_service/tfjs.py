"""TF.js in Node, for tests that ask it what it makes of a model.

It is installed when first needed, below `DISCO_TEST_NODE_MODULES` where that is set, else in pytest's cache.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TFJS_PACKAGE = "@tensorflow/tfjs@4.22.0"
_SCRIPT = Path(__file__).with_name("load_in_tfjs.cjs")


@dataclass(frozen=True)
class Question:
    """A model to load; without `weights` TF.js makes its own."""

    name: str
    topology: dict[str, Any]
    specs: Sequence[tuple[str, tuple[int, ...]]] = ()
    weights: bytes | None = None
    training: dict[str, Any] | None = None

    def line(self) -> str:
        asked: dict[str, Any] = {"name": self.name, "topology": self.topology}
        if self.weights is not None:
            asked["specs"] = [{"name": name, "shape": shape, "dtype": "float32"} for name, shape in self.specs]
            asked["weights"] = base64.b64encode(self.weights).decode()
        if self.training is not None:
            asked["training"] = self.training
        return json.dumps(asked)


@dataclass(frozen=True)
class Answer:
    """What TF.js made of it."""

    weights: Sequence[tuple[str, tuple[int, ...], bool]]
    """Name, shape, and whether it is trained, in the order of `model.weights`."""
    values: bytes
    compiled: dict[str, Any] | None
    error: str


class TFJS:
    """Runs Node once for a list of questions."""

    def __init__(self, node_modules: Path) -> None:
        self.node_modules = node_modules

    def ask(self, questions: Sequence[Question]) -> dict[str, Answer]:
        done = subprocess.run(
            ["node", str(_SCRIPT)],
            input="\n".join(question.line() for question in questions),
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "NODE_PATH": str(self.node_modules)},
        )
        assert done.returncode == 0, done.stderr
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(answers) == len(questions), done.stderr
        return {answer["name"]: _answer(answer) for answer in answers}


def _answer(answer: dict[str, Any]) -> Answer:
    return Answer(
        weights=[(weight["name"], tuple(weight["shape"]), weight["trainable"]) for weight in answer.get("weights", [])],
        values=base64.b64decode(answer.get("values", "")),
        compiled=answer.get("compiled"),
        error=answer.get("error", ""),
    )


def installed(cache: Path) -> TFJS:
    """TF.js, installed if need be. Skips where there is no Node; fails instead where CI=true."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        reason = f"{' and '.join(missing)} not found: TF.js itself cannot be asked"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = Path(os.environ.get("DISCO_TEST_NODE_MODULES") or cache).resolve() / "tfjs-4.22.0"
    if not (folder / "node_modules" / "@tensorflow" / "tfjs" / "package.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--ignore-scripts", "--no-save", "--no-audit", "--no-fund"]
        done = subprocess.run(
            [*command, "--prefix", str(folder), TFJS_PACKAGE], capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
    return TFJS(folder / "node_modules")
