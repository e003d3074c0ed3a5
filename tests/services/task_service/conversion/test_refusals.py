"""What strangers bring that is no model, or more than a model: a sentence for each, and nothing left behind."""

from __future__ import annotations

import io
import json
import pickle
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from learning.refusals import DiscoError, InvalidModel, TooLarge, WeightsNotFinite
from services.task_service.conversion.converting import convert_model
from services.task_service.conversion.limits import ConversionLimits
from tests.services.task_service import topologies

Make = Callable[[Path, Path], Path]
"""Makes the file of a stranger in a folder, from what Keras saved."""


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("rooms")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


async def refusal(path: Path, limits: ConversionLimits | None = None) -> DiscoError:
    with pytest.raises(DiscoError) as raised:
        async with convert_model(path, limits=limits):
            pass
    return raised.value


def keras_archive(folder: Path, change: Callable[[dict[str, Any]], None], saved: Path) -> Path:
    """dense.keras of Keras 3 with another configuration."""
    path = folder / "changed.keras"
    with zipfile.ZipFile(saved / "keras" / "dense.keras") as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            octets = source.read(name)
            if name == "config.json":
                config = json.loads(octets)
                change(config)
                octets = json.dumps(config).encode()
            target.writestr(name, octets)
    return path


def changed(change: Callable[[dict[str, Any]], None]) -> Make:
    return lambda folder, saved: keras_archive(folder, change, saved)


def layer_changed(**values: Any) -> Make:
    """Another second layer (a Dense)."""
    return changed(lambda config: config["config"]["layers"][1].update(values))


def layer_configured(**values: Any) -> Make:
    return changed(lambda config: config["config"]["layers"][1]["config"].update(values))


def zipped(*members: tuple[str, bytes]) -> Make:
    def make(folder: Path, saved: Path) -> Path:
        with zipfile.ZipFile(folder / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, octets in members:
                archive.writestr(name, octets)
        return folder / "m.zip"

    return make


def written(name: str, octets: bytes) -> Make:
    def make(folder: Path, saved: Path) -> Path:
        (folder / name).write_bytes(octets)
        return folder / name

    return make


def model_json(document: Any, **shards: bytes) -> Make:
    def make(folder: Path, saved: Path) -> Path:
        (folder / "model.json").write_text(document if isinstance(document, str) else json.dumps(document))
        for name, octets in shards.items():
            (folder / f"{name}.bin").write_bytes(octets)
        return folder / "model.json"

    return make


def manifest(weights: Any, *paths: str) -> dict[str, Any]:
    topology = topologies.sequential(topologies.dense("d", 2), shape=[2])
    return {"modelTopology": topology, "weightsManifest": [{"paths": list(paths), "weights": weights}]}


def h5_changed(change: Callable[[h5py.File, Path], None]) -> Make:
    def make(folder: Path, saved: Path) -> Path:
        path = folder / "changed.h5"
        path.write_bytes((saved / "tf_keras" / "dense.h5").read_bytes())
        with h5py.File(path, "r+") as file:
            change(file, folder)
        return path

    return make


KERNEL = "model_weights/dense/dense/kernel:0"


def other_kernel(**options: Any) -> Make:
    def change(file: h5py.File, folder: Path) -> None:
        del file[KERNEL]
        file.create_dataset(KERNEL, **options)

    return h5_changed(change)


def linked(link: Callable[[Path], Any]) -> Make:
    def change(file: h5py.File, folder: Path) -> None:
        with h5py.File(folder / "other.h5", "w") as other:
            other["secret"] = np.ones((5, 7), "f4")
        del file[KERNEL]
        file[KERNEL] = link(folder)

    return h5_changed(change)


def zip_with_link(folder: Path, saved: Path) -> Path:
    info = zipfile.ZipInfo("model.json")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(folder / "m.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    return folder / "m.zip"


def torch_archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"a": 1}))
        archive.writestr("model/data/0", bytes(4))
    return buffer.getvalue()


TWO_BY_TWO = [{"name": "d/kernel", "shape": [2, 2]}, {"name": "d/bias", "shape": [2]}]
CUSTOM = {"module": "my_package.layers", "class_name": "Mine", "registered_name": "my_package>Mine"}
REFUSED: dict[str, tuple[Make, str]] = {
    "a Lambda": (layer_changed(class_name="Lambda"), "Lambda layers carry program code and are never taken"),
    "a custom layer": (layer_changed(**CUSTOM), "my_package>Mine is a custom object, which is program code"),
    "a layer of another module": (layer_changed(module="os"), "is a custom object, which is program code"),
    "a custom activation": (
        layer_configured(activation={"module": "builtins", "class_name": "function", "config": "mine"}),
        "activation is a custom object, which is program code",
    ),
    "an operation": (
        layer_changed(module="keras.src.ops.numpy", class_name="Add"),
        "Add is an operation outside of a layer",
    ),
    "a layer that TF.js lacks": (
        layer_changed(class_name="MultiHeadAttention"),
        "there is no layer class MultiHeadAttention here, but these: Activation, Add, AlphaDropout",
    ),
    "an option that TF.js lacks": (
        layer_configured(activity_regularizer={"class_name": "L2"}),
        "TF.js has nothing like activity_regularizer",
    ),
    "another hard_sigmoid": (layer_configured(activation="hard_sigmoid"), "the hard_sigmoid of Keras 3 is another"),
    "an unknown activation": (layer_configured(activation="exponential"), "activation is not one that TF.js knows"),
    "double precision": (layer_configured(dtype="float64"), "its weights must be float32"),
    "a subclassed model": (
        changed(lambda config: config.update(class_name="Mine", module="mine", config={"units": 3})),
        r"it is a subclassed model \(Mine\), whose layers only its program code knows",
    ),
    "another shape than its layer": (layer_configured(units=8), r"tensor dense/kernel has the shape \[5, 7\]"),
    "10 000 layers": (
        model_json(
            {
                "modelTopology": topologies.sequential(
                    *(topologies.layer("Dense", f"d{number}", units=1) for number in range(10_000)), shape=[1]
                ),
                "weightsManifest": [{"paths": ["a.bin"], "weights": [{"name": "d0/kernel", "shape": [1, 1]}]}],
            },
            a=bytes(4),
        ),
        "it has more than 4096 tensors",
    ),
    "a pickle": (written("m.pkl", pickle.dumps({"a": 1})), "it is a pickle, which is program code"),
    "PyTorch of old": (written("m.pt", pickle.dumps({"a": 1})), "PyTorch models are program code and pickled weights"),
    "PyTorch": (written("m.pt", torch_archive()), "Build the same layers with Keras"),
    "ONNX": (written("m.onnx", b"\x08\x07\x12\x04"), "ONNX files hold operations and no layers"),
    "TFLite": (written("m.tflite", b"\x1c\0\0\0TFL3" + bytes(40)), "TFLite models cannot be trained"),
    "a frozen graph": (written("frozen.pb", b"\n\x05abc"), "it is a GraphModel"),
    "a SavedModel without Keras": (zipped(("m/saved_model.pb", b"\x08\x01")), "it is a GraphModel"),
    "a GraphModel of TF.js": (
        model_json({"format": "graph-model", "modelTopology": {"node": []}}),
        "it is a GraphModel: the operations of a finished model, without the layers and weights that training needs",
    ),
    "weights without a model": (
        h5_changed(lambda file, folder: file.attrs.__delitem__("model_config")),
        "holds weights and no model",
    ),
    "an external link": (linked(lambda folder: h5py.ExternalLink(str(folder / "other.h5"), "/secret")), "is a link"),
    "a soft link": (linked(lambda folder: h5py.SoftLink("/model_weights")), "is a link to somewhere else"),
    "a dataset of another file": (
        other_kernel(shape=(5, 7), dtype="f4", external=[("/etc/hostname", 0, 140)]),
        "is compressed or lies elsewhere",
    ),
    "an HDF5 bomb": (
        other_kernel(shape=(100_000, 100_000), dtype="f4", chunks=(1000, 1000), compression="gzip"),
        "is compressed or lies elsewhere",
    ),
    "a dataset of texts": (
        other_kernel(data=np.full((5, 7), b"text", dtype="S4")),
        "tensor dense/kernel is of type bytes32",
    ),
    "a way out of the archive": (zipped(("../model.json", b"{}")), "has a file of the name '../model.json'"),
    "a way to the root": (zipped(("/etc/passwd", b"{}")), "which is not taken"),
    "a link in the archive": (zip_with_link, "model.json in the zip archive is a link"),
    "two members of one name": (zipped(("a/model.json", b"{}"), ("a/MODEL.json", b"{}")), "two files of one name"),
    "a file and a folder": (zipped(("a", b"1"), ("a/b", b"2"), ("c", b"3")), "is a file and a folder"),
    "an archive of anything": (zipped(("readme.txt", b"hello")), "it holds neither model.json nor saved_model.pb"),
    "an archive in an archive": (zipped(("model.zip", b"PK")), "it holds neither model.json nor saved_model.pb"),
    "half a .keras": (zipped(("config.json", b"{}")), "has no metadata.json, model.weights.h5"),
    "nothing": (written("m.h5", b""), "it is of no format that is read here"),
    "a text": (written("m.txt", b"hello"), "it is of no format that is read here"),
    "JSON that is none": (model_json("{"), "model.json is not JSON"),
    "deep JSON": (model_json('{"a":' * 5000 + "1" + "}" * 5000), "model.json is n"),
    "huge JSON": (model_json('{"a":"' + "a" * (5 << 20) + '"}'), "model.json is larger than 4194304 bytes"),
    "a shard elsewhere": (model_json(manifest(TWO_BY_TWO, "../a.bin")), "must be a plain file beside model.json"),
    "a shard that is missing": (model_json(manifest(TWO_BY_TWO, "a.bin")), "its shard a.bin is missing"),
    "a truncated shard": (
        model_json(manifest(TWO_BY_TWO, "a.bin"), a=bytes(20)),
        "its shards have 20 bytes, its weightsManifest announces 24",
    ),
    "an oversized shard": (model_json(manifest(TWO_BY_TWO, "a.bin"), a=bytes(28)), "its shards have 28 bytes"),
    "a shape below zero": (
        model_json(manifest([{"name": "d/kernel", "shape": [-2, 2]}], "a.bin"), a=bytes(24)),
        "its weightsManifest cannot be read",
    ),
    "too few tensors": (
        model_json(manifest(TWO_BY_TWO[:1], "a.bin"), a=bytes(16)),
        "the file has no weights for d/bias",
    ),
    "a tensor of no layer": (
        model_json(manifest([*TWO_BY_TWO, {"name": "x", "shape": [1]}], "a.bin"), a=bytes(28)),
        "the topology has no tensor x",
    ),
    "weights of int32": (
        model_json(manifest([dict(each, dtype="int32") for each in TWO_BY_TWO], "a.bin"), a=bytes(24)),
        "is of type int32; weights must be float32",
    ),
    "safetensors of somebody else": (
        written("m.safetensors", (2).to_bytes(8, "little") + b"{}"),
        "has weights and no layers",
    ),
    "no such file": (lambda folder, saved: folder / "nothing", "there is no such file"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_is_refused_by_name(what: str, tmp_path: Path, saved: Path) -> None:
    make, sentence = REFUSED[what]
    error = await refusal(make(tmp_path, saved))
    assert isinstance(error, InvalidModel)
    with pytest.raises(InvalidModel, match=sentence):
        raise error


@pytest.mark.parametrize("value", [np.nan, np.inf])
async def test_weights_that_are_no_numbers_are_refused(value: float, tmp_path: Path, saved: Path) -> None:
    error = await refusal(other_kernel(data=np.full((5, 7), value, "f4"))(tmp_path, saved))
    assert isinstance(error, WeightsNotFinite)
    assert error.variables == {"tensor": "dense/kernel"}


async def test_a_file_above_the_limit_is_not_read(tmp_path: Path, saved: Path) -> None:
    error = await refusal(saved / "keras" / "images.h5", ConversionLimits(file_bytes=10_000))
    assert isinstance(error, TooLarge)
    assert error.variables == {"limit_bytes": "10000"}


async def test_a_model_above_the_limit_is_refused(saved: Path) -> None:
    assert isinstance(await refusal(saved / "keras" / "images.h5", ConversionLimits(weights_bytes=1000)), TooLarge)


async def test_a_zip_bomb_costs_the_caller_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("model.json", "w", force_zip64=True) as member,
    ):
        for _ in range(600):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 8 << 20
    before = resident_bytes()
    assert isinstance(await refusal(path), TooLarge)
    assert resident_bytes() - before < 8 << 20


async def test_an_archive_that_lies_about_its_sizes_is_damaged(tmp_path: Path) -> None:
    path = zipped(("model.json", b"{" + b" " * 5000 + b"}"))(tmp_path, tmp_path)
    octets = path.read_bytes()
    size = (5002).to_bytes(4, "little")
    assert octets.count(size) == 2
    path.write_bytes(octets.replace(size, (9).to_bytes(4, "little")))
    with pytest.raises(InvalidModel, match=r"model\.json in the zip archive is (damaged|larger than announced)"):
        raise await refusal(path)


async def test_too_many_members(tmp_path: Path) -> None:
    path = zipped(*((f"{number}.bin", b"") for number in range(30)))(tmp_path, tmp_path)
    with pytest.raises(InvalidModel, match="more than 20 files"):
        raise await refusal(path, ConversionLimits(members=20))


@pytest.mark.parametrize("file", ["keras/dense.h5", "keras/dense.keras", "tf_keras/dense.saved.zip"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
async def test_a_truncated_file_is_refused(file: str, share: float, tmp_path: Path, saved: Path) -> None:
    octets = (saved / file).read_bytes()
    (tmp_path / "cut").write_bytes(octets[: int(len(octets) * share)])
    assert isinstance(await refusal(tmp_path / "cut"), InvalidModel)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
