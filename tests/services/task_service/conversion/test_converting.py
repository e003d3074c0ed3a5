"""What Keras saved is read, and TF.js gives the answers that Keras gave."""

from __future__ import annotations

import asyncio
import hashlib
import json
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

from services.task_service.conversion.converting import convert_model
from services.task_service.default_tasks import DEFAULT_TASKS
from tests.services.task_service import topologies
from tests.services.task_service.conversion.kept_models import (
    FILES,
    NAMES,
    Prediction,
    arrays,
    as_tfjs,
    assert_equal_outputs,
    predictions,
)
from tests.services.task_service.tasks import prepared

Converted = dict[str, tuple[str, Prediction]]
"""By file: the digest of the weights, and what TF.js answers."""


@pytest.fixture(scope="session")
def converted(saved: Path, node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    folder = tmp_path_factory.mktemp("tfjs")

    async def convert_all() -> list[str]:
        return [await as_tfjs(saved / file, folder / file.replace("/", "_")) for file in FILES]

    digests = asyncio.run(convert_all())
    asked = [(folder / file.replace("/", "_"), arrays(saved, file, "input")) for file in FILES]
    return dict(zip(FILES, zip(digests, predictions(node_modules, asked), strict=True), strict=True))


@pytest.mark.parametrize("file", FILES)
def test_tfjs_answers_as_keras_did(file: str, converted: Converted, saved: Path) -> None:
    assert_equal_outputs(converted[file][1].outputs, arrays(saved, file, "output"))


@pytest.mark.parametrize("name", NAMES)
def test_one_model_has_one_digest_in_whatever_file_it_came(name: str, converted: Converted) -> None:
    digests = {digest for file, (digest, _) in converted.items() if f"/{name}." in file}
    assert len(digests) == 1


def test_what_is_frozen_in_keras_is_frozen_in_tfjs(converted: Converted) -> None:
    trained = {file: prediction.trained for file, (_, prediction) in converted.items()}
    expected = {"dense": 66, "images": 1550, "words": 602, "nested": 113, "stacked": 15}
    assert trained == {file: expected[file.split("/")[1].split(".")[0]] for file in FILES}


async def test_what_it_was_compiled_with_is_told_in_the_words_of_tfjs(saved: Path) -> None:
    async with convert_model(saved / "tf_keras" / "dense.h5") as converted:
        assert json.loads(converted.model.training_config_json) == {
            "loss": "mean_squared_error",
            "metrics": [],
            "optimizer_config": {
                "class_name": "Adam",
                "config": {"learning_rate": 0.004000000189989805, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-07},
            },
        }
        assert converted.notes == ()
        assert converted.source == "Keras 2 (.h5)"


async def test_what_was_left_out_is_said(saved: Path) -> None:
    async with convert_model(saved / "keras" / "dense.keras") as converted:
        assert converted.model.training_config_json == ""
        assert converted.notes == (
            "What it was compiled with has no counterpart in TF.js, or is not in the file; the task's settings apply.",
        )


async def test_a_converted_model_makes_a_task(saved: Path) -> None:
    task = DEFAULT_TASKS["titanic"]().task
    async with convert_model(saved / "tf_keras" / "words.keras") as converted:
        assert converted.weights is not None
        octets = converted.weights.read_bytes()
        model, values = await prepared(task, converted.model, octets, max_bytes=1 << 20)
    assert model.weight_specs == converted.model.weight_specs
    assert values.tobytes() == octets
    assert hashlib.sha256(octets).hexdigest() == converted.digest
    assert not converted.weights.exists()


def tfjs_files(folder: Path, weights: list[dict[str, object]], shards: dict[str, bytes]) -> Path:
    folder.mkdir()
    topology = topologies.sequential(topologies.dense("d", 2), shape=[2])
    manifest = [{"paths": list(shards), "weights": weights}]
    (folder / "model.json").write_bytes(
        msgspec.json.encode({"modelTopology": topology, "weightsManifest": manifest, "format": "layers-model"})
    )
    for name, octets in shards.items():
        (folder / name).write_bytes(octets)
    return folder


KERNEL, BIAS = {"name": "d/kernel", "shape": [2, 2], "dtype": "float32"}, {"name": "d/bias", "shape": [2]}


async def test_shards_are_read_as_one_and_put_into_order(tmp_path: Path) -> None:
    values = np.arange(6, dtype="<f4").tobytes()  # the bias first
    folder = tfjs_files(
        tmp_path / "m", [BIAS, KERNEL], {"a.bin": values[:5], "b.bin": values[5:6], "c.bin": values[6:]}
    )
    async with convert_model(folder / "model.json") as converted:
        assert converted.weights is not None
        assert np.frombuffer(converted.weights.read_bytes(), "<f4").tolist() == [2, 3, 4, 5, 0, 1]


async def test_quantized_weights_are_read_as_tfjs_reads_them(tmp_path: Path) -> None:
    weights = [
        KERNEL | {"quantization": {"dtype": "uint8", "scale": 0.5, "min": -1.0, "original_dtype": "float32"}},
        BIAS | {"quantization": {"dtype": "float16", "original_dtype": "float32"}},
    ]
    octets = bytes([0, 1, 2, 255]) + np.array([0.25, -3], "<f2").tobytes()
    async with convert_model(tfjs_files(tmp_path / "m", weights, {"a.bin": octets})) as converted:
        assert converted.weights is not None
        assert np.frombuffer(converted.weights.read_bytes(), "<f4").tolist() == [-1, -0.5, 0, 126.5, 0.25, -3]


async def test_uint16_and_the_state_of_an_optimizer(tmp_path: Path) -> None:
    weights = [
        KERNEL | {"quantization": {"dtype": "uint16", "scale": 0.001, "min": 0.1}},
        {"name": "iter", "shape": [], "dtype": "int32", "group": "optimizer"},
        BIAS,
    ]
    octets = np.array([0, 1, 2, 65535], "<u2").tobytes() + bytes(4) + np.array([7, 8], "<f4").tobytes()
    async with convert_model(tfjs_files(tmp_path / "m", weights, {"a.bin": octets})) as converted:
        assert converted.weights is not None
        expected = np.array([0.1, 0.101, 0.102, 65.635, 7, 8]).astype("<f4")
        assert np.frombuffer(converted.weights.read_bytes(), "<f4").tolist() == expected.tolist()


async def test_an_architecture_alone_has_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "architecture.json"
    path.write_text(topologies.text(topologies.keras_like()))
    async with convert_model(path) as converted:
        assert converted.weights is None
        assert converted.digest is None
        assert converted.model.size > 0


async def test_a_zip_archive_with_one_folder_is_read_like_the_folder(tmp_path: Path) -> None:
    folder = tfjs_files(tmp_path / "m", [BIAS, KERNEL], {"a.bin": bytes(24)})
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"m/{file.name}")
    async with convert_model(tmp_path / "m.zip") as converted, convert_model(folder) as direct:
        assert converted.digest == direct.digest


@pytest.mark.parametrize("task_id", [name for name, build in DEFAULT_TASKS.items() if build().kind == "tfjs"])
async def test_the_architecture_of_a_default_task_is_read(task_id: str, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(json.dumps({"modelTopology": json.loads(DEFAULT_TASKS[task_id]().topology_json)}))
    async with convert_model(path) as converted:
        assert converted.model.topology_json
