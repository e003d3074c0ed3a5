"""Versions are written for others, and what is read again is the same, byte for byte."""

from __future__ import annotations

import asyncio
import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from blobstore.records import Model, WeightSpec
from learning.refusals import InvalidModel
from services.task_service.conversion.converting import convert_model
from services.task_service.conversion.exporting import FORMS, export_version
from services.task_service.default_tasks import DEFAULT_TASKS
from services.task_service.topology.weights import weights_of_topology
from tests.services.task_service import topologies
from tests.services.task_service.conversion.kept_models import (
    LABELS,
    Arrays,
    as_tfjs,
    assert_equal_outputs,
    predictions,
)
from tests.services.task_service.tasks import prepared

# Keras knows no hard_sigmoid that is TF.js' (3), and no ThresholdedReLU (3).
IN_KERAS_2_ONLY = ("every_plain_layer", "states")


def model_of(topology: topologies.Topology) -> Model:
    text = topologies.text(topology)
    specs = tuple(WeightSpec(weight.name, weight.shape) for weight in weights_of_topology(text))
    return Model("tfjs", text, specs)


def with_weights(model: Model, folder: Path) -> Path:
    path = folder / "canonical"
    path.write_bytes(np.random.default_rng(3).uniform(0.1, 0.6, model.size).astype("<f4").tobytes())
    return path


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", topologies.NAMED)
async def test_what_was_written_is_read_again_with_the_same_digest(name: str, form: str, tmp_path: Path) -> None:
    model = model_of(topologies.NAMED[name]())
    weights = with_weights(model, tmp_path)
    target = tmp_path / "exported"
    if form == "keras" and name in IN_KERAS_2_ONLY:
        with pytest.raises(InvalidModel, match="Keras 3"):
            await export_version(model, weights, form=form, target=target, labels=LABELS)
        assert not target.exists()
        return
    await export_version(model, weights, form=form, target=target, labels=LABELS)
    async with convert_model(target) as again:
        assert again.digest == digest_of(weights)
        assert again.model.weight_specs == model.weight_specs


@pytest.mark.parametrize("form", ["h5", "keras"])
def test_tfjs_answers_alike_before_and_after(form: str, tmp_path: Path, node_modules: Path) -> None:
    """Keras' words and back change neither an output nor what is trained."""
    left_out = (*(IN_KERAS_2_ONLY if form == "keras" else ()), "channels_first")  # which TF.js cannot run without a GPU
    names = [name for name in topologies.NAMED if name not in left_out]
    asked: list[tuple[Path, Arrays]] = []

    async def there_and_back(name: str) -> None:
        folder = tmp_path / name
        folder.mkdir()
        model = model_of(topologies.NAMED[name]())
        weights = with_weights(model, folder)
        inputs = inputs_for(topologies.NAMED[name]())
        await export_version(model, weights, form="tfjs", target=folder / "before", labels=LABELS)
        await export_version(model, weights, form=form, target=folder / "between", labels=LABELS)
        await as_tfjs(folder / "between", folder / "after")
        asked.extend([(folder / "before", inputs), (folder / "after", inputs)])

    for name in names:
        asyncio.run(there_and_back(name))
    answers = predictions(node_modules, asked)
    for before, after in zip(answers[::2], answers[1::2], strict=True):
        assert_equal_outputs(after.outputs, before.outputs)
        assert after.trained == before.trained


def inputs_for(topology: topologies.Topology) -> Arrays:
    """Small whole numbers, which an embedding takes too."""
    layers = topology["config"]["layers"]
    inputs = [layer for layer in layers if layer["class_name"] == "InputLayer"] or layers[:1]
    shapes = []
    for layer in inputs:
        config = layer["config"]
        if "batch_input_shape" not in config:
            config = config["layers"][0]["config"]
        shapes.append([2, *(6 if size is None else size for size in config["batch_input_shape"][1:])])
    return [np.random.default_rng(1).integers(0, 4, shape).astype("float32") for shape in shapes]


async def test_safetensors_is_what_its_own_library_reads(tmp_path: Path) -> None:
    model = model_of(topologies.keras_like())
    weights, target = with_weights(model, tmp_path), tmp_path / "m.safetensors"
    await export_version(model, weights, form="safetensors", target=target, labels=LABELS)
    tensors = load_file(target)
    assert {name: array.shape for name, array in tensors.items()} == {
        spec.name: spec.shape for spec in model.weight_specs
    }
    assert b"".join(tensors[spec.name].tobytes() for spec in model.weight_specs) == weights.read_bytes()
    size = int.from_bytes(target.read_bytes()[:8], "little")
    metadata = json.loads(target.read_bytes()[8 : 8 + size])["__metadata__"]
    assert metadata | LABELS == metadata
    assert json.loads(metadata["topology"]) == json.loads(model.topology_json)


async def test_the_labels_go_with_every_file(tmp_path: Path) -> None:
    model = model_of(topologies.sequential(topologies.dense("d"), shape=[2]))
    weights = with_weights(model, tmp_path)
    for form in ("tfjs", "keras"):
        await export_version(model, weights, form=form, target=tmp_path / form, labels=LABELS)
    described = json.loads((tmp_path / "tfjs" / "model.json").read_text())
    assert described["userDefinedMetadata"] == LABELS
    metadata = json.loads(zipfile.ZipFile(tmp_path / "keras").read("metadata.json"))
    assert metadata["disco_task_id"] == "kept"
    assert metadata["disco_version"] == "7"


async def test_a_gpt_is_written_as_safetensors_only(tmp_path: Path) -> None:
    default = DEFAULT_TASKS["llm_task"]()
    model, values = await prepared(default.task, Model("gpt", default.topology_json, ()), None, max_bytes=100 << 20)
    weights, target = tmp_path / "w", tmp_path / "gpt.safetensors"
    weights.write_bytes(values.tobytes())
    await export_version(model, weights, form="safetensors", target=target, labels=LABELS)
    async with convert_model(target) as again:
        assert again.model.kind == "gpt"
        assert again.model.weight_specs == model.weight_specs
        assert again.digest == digest_of(weights)
    with pytest.raises(InvalidModel, match="a GPT is written as safetensors only"):
        await export_version(model, weights, form="keras", target=tmp_path / "gpt.keras", labels=LABELS)


async def test_an_unknown_form_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    model = model_of(topologies.sequential(topologies.dense("d"), shape=[2]))
    with pytest.raises(InvalidModel, match="use one of tfjs, h5, keras, safetensors"):
        await export_version(model, with_weights(model, tmp_path), form="onnx", target=tmp_path / "x", labels={})


async def test_an_export_that_fails_leaves_nothing_and_touches_nothing(tmp_path: Path) -> None:
    model = model_of(topologies.sequential(topologies.dense("d"), shape=[2]))
    weights, target = tmp_path / "w", tmp_path / "there"
    weights.write_bytes(b"too few")
    target.write_text("what was there")
    with pytest.raises(Exception, match="7 bytes came"):
        await export_version(model, weights, form="keras", target=target, labels=LABELS)
    assert target.read_text() == "what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there", "w"]
