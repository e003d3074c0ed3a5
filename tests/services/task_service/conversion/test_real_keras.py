"""The two libraries called Keras, installed beside this project (`make keras`), read what is written for them.

Skips where they are not installed; fails instead where CI=true.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from blobstore.records import Model
from services.task_service.conversion.converting import convert_model
from services.task_service.conversion.exporting import export_version
from tests.e2e.system import ROOT
from tests.services.task_service import topologies
from tests.services.task_service.conversion.kept_models import (
    FILES,
    LABELS,
    NAMES,
    Arrays,
    arrays,
    as_tfjs,
    assert_equal_outputs,
    predictions,
)
from tests.services.task_service.conversion.test_exporting import IN_KERAS_2_ONLY, inputs_for, model_of, with_weights

HERE = Path(__file__).parent
PYTHON = Path(os.environ.get("DISCO_TEST_KERAS_PYTHON") or ROOT / ".venv-keras/bin/python")
IRIS_TASK = ROOT / "examples/iris/task.json"
FORMS = {"h5": "tf_keras", "keras": "keras"}
# Layers that TF.js runs with a GPU only, or that mean something else there: masked steps keep their output in TF.js.
LEFT_OUT = ("channels_first",)


@pytest.fixture(scope="module")
def python() -> Path:
    if not PYTHON.exists():
        reason = f"no Keras at {PYTHON}: make keras"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return PYTHON


def run(python: Path, script: str, *arguments: str) -> None:
    run_command(str(python), str(HERE / script), *arguments)


def run_command(*command: str) -> None:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "PATH": os.environ["PATH"], "HOME": "/tmp"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=quiet, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]


async def converted(path: Path) -> tuple[Model, str | None]:
    async with convert_model(path) as found:
        return found.model, found.digest


@pytest.mark.parametrize("library", ["tf_keras", "keras"])
def test_what_keras_saves_today_is_what_was_kept(library: str, python: Path, saved: Path, tmp_path: Path) -> None:
    run(python, "save_models.py", str(tmp_path / library), library)
    for file in (file for file in FILES if file.startswith(f"{library}/")):
        assert asyncio.run(converted(tmp_path / file)) == asyncio.run(converted(saved / file))
        assert_equal_outputs(arrays(tmp_path, file, "output"), arrays(saved, file, "output"))


@pytest.mark.parametrize(("library", "form"), [("tf_keras", "h5"), ("keras", "keras")])
def test_model_objects_of_keras_become_the_tasks_that_their_files_become(
    library: str, form: str, python: Path, saved: Path, tmp_path: Path
) -> None:
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True, timeout=60).stdout
    script = f"{__package__}.add_objects"
    run_command(sys.executable, "-m", script, packages.strip(), library, str(IRIS_TASK), str(tmp_path))
    for name in NAMES:
        kept = asyncio.run(converted(saved / library / f"{name}.{form}"))
        record = json.loads((tmp_path / "data" / "tasks" / name / "task.json").read_text())
        assert record["initial_digest"] == kept[1]
        (weights,) = (tmp_path / "data" / "tasks" / name / "weights").iterdir()
        assert hashlib.sha256(weights.read_bytes()).hexdigest() == kept[1]
    assert "twice (Lambda): Lambda layers carry program code" in (tmp_path / "refusal.txt").read_text()


@dataclass(frozen=True)
class Exported:
    """A model in Keras' words and in those of TF.js."""

    name: str
    for_keras: Path
    for_tfjs: Path
    inputs: Arrays


async def _kept(name: str, form: str, saved: Path, folder: Path) -> Exported:
    source = saved / "tf_keras" / f"{name}.h5"
    async with convert_model(source) as converted:
        assert converted.weights is not None
        target = folder / f"{name}.{form}"
        await export_version(converted.model, converted.weights, form=form, target=target, labels=LABELS)
    await as_tfjs(source, folder / f"{name}_tfjs")
    return Exported(name, target, folder / f"{name}_tfjs", arrays(saved, f"tf_keras/{name}", "input"))


async def _of_topology(name: str, form: str, folder: Path) -> Exported:
    model, inside = model_of(topologies.NAMED[name]()), folder / name
    inside.mkdir()
    weights = with_weights(model, inside)
    for target, written in ((inside / f"m.{form}", form), (inside / "tfjs", "tfjs")):
        await export_version(model, weights, form=written, target=target, labels=LABELS)
    return Exported(name, inside / f"m.{form}", inside / "tfjs", inputs_for(topologies.NAMED[name]()))


@pytest.mark.parametrize("form", FORMS)
def test_keras_answers_as_tfjs_does(form: str, python: Path, saved: Path, tmp_path: Path, node_modules: Path) -> None:
    left_out = (*LEFT_OUT, *(IN_KERAS_2_ONLY if form == "keras" else ()))
    exported = [asyncio.run(_kept(name, form, saved, tmp_path)) for name in NAMES]
    exported += [asyncio.run(_of_topology(name, form, tmp_path)) for name in topologies.NAMED if name not in left_out]
    arguments: list[str] = []
    for each in exported:
        np.savez(tmp_path / f"{each.name}.in.npz", **{f"input_{at}": array for at, array in enumerate(each.inputs)})
        arguments += [str(each.for_keras), f"{tmp_path}/{each.name}.in.npz", f"{tmp_path}/{each.name}.out.npz"]
    run(python, "load_models.py", FORMS[form], *arguments)
    answers = predictions(node_modules, [(each.for_tfjs, each.inputs) for each in exported])
    for each, answer in zip(exported, answers, strict=True):
        of_keras = np.load(tmp_path / f"{each.name}.out.npz")
        assert_equal_outputs([of_keras[f"output_{at}"] for at in range(len(answer.outputs))], answer.outputs)
        assert int(of_keras["trained"]) == answer.trained
