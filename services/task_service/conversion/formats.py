"""What a file is, told by its first bytes; what cannot be read is refused by name, with what to do instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from learning.refusals import InvalidModel, TooLarge
from services.task_service.conversion import keras_archive, keras_h5, safetensors, saved_model, tfjs_artifacts
from services.task_service.conversion.archives import Archive
from services.task_service.conversion.limits import ConversionLimits
from services.task_service.conversion.tensors import Found

READ = "TF.js (model.json with its shards), Keras .keras and .h5, SavedModel of Keras 2, safetensors written by Disco"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HEAD_BYTES = 16
_PICKLE = "it is a pickle, which is program code, and none is run here"
_PYTORCH = (
    "PyTorch models are program code and pickled weights, and neither is taken. Build the same layers with Keras, copy"
    " the weights tensor by tensor (Linear: transposed; Conv2d: to height, width, in, out; BatchNorm: weight, bias,"
    " running_mean, running_var), compare the outputs, and save that model as .keras (docs/models.md)"
)


@contextmanager
def reading(path: Path, folder: Path, limits: ConversionLimits) -> Iterator[Found]:
    """Raises InvalidModel, TooLarge. `folder` takes what is unpacked."""
    if path.is_dir():
        with _folder(path, limits) as found:
            yield found
        return
    if not path.is_file():
        raise InvalidModel(problem="there is no such file")
    if path.stat().st_size > limits.file_bytes:
        raise TooLarge(limit_bytes=limits.file_bytes)
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    with _file(path, head, folder, limits) as found:
        yield found


@contextmanager
def _file(path: Path, head: bytes, folder: Path, limits: ConversionLimits) -> Iterator[Found]:
    if head.startswith(b"PK"):
        with _archive(Archive(path, limits), folder, limits) as found:
            yield found
    elif head.startswith(_HDF5):
        with keras_h5.read(path) as found:
            yield found
    elif head.lstrip()[:1] == b"{":
        yield tfjs_artifacts.read(path, limits)
    elif head[8:9] == b"{" and safetensors.begins(head):
        with safetensors.read(path) as found:
            yield found
    else:
        raise InvalidModel(problem=_why_not(path, head))


@contextmanager
def _archive(archive: Archive, folder: Path, limits: ConversionLimits) -> Iterator[Found]:
    names = archive.names
    if any(name.endswith((".pkl", ".pickle")) for name in names):
        torch = any(name.endswith("data.pkl") for name in names)
        raise InvalidModel(problem=_PYTORCH if torch else _PICKLE)
    if "config.json" in names or keras_archive.MEMBERS[2] in names:
        with keras_archive.read(archive, folder) as found:
            yield found
    else:
        with _folder(archive.unpack_all(folder), limits) as found:
            yield found


@contextmanager
def _folder(folder: Path, limits: ConversionLimits) -> Iterator[Found]:
    if (folder / "model.json").is_file():
        yield tfjs_artifacts.read(folder / "model.json", limits)
    elif (folder / "saved_model.pb").is_file():
        with saved_model.read(folder, limits) as found:
            yield found
    else:
        raise InvalidModel(problem=f"it holds neither model.json nor saved_model.pb. What is read: {READ}")


def _why_not(path: Path, head: bytes) -> str:
    suffix = path.suffix.lower()
    if head[:1] == b"\x80" and 2 <= head[1:2][0:1].ljust(1, b"\0")[0] <= 5:
        return _PYTORCH if suffix in (".pt", ".pth", ".bin") else _PICKLE
    if suffix in (".pt", ".pth", ".ckpt"):
        return _PYTORCH
    if suffix == ".onnx":
        return f"ONNX files hold operations and no layers, so they cannot be trained in TF.js. {_PYTORCH}"
    if head[4:8] == b"TFL3":
        return "TFLite models cannot be trained; take the Keras model that it was made of"
    if suffix == ".pb":
        return f"{saved_model.GRAPH}; of a SavedModel, bring the whole folder, as a zip archive for example"
    return f"it is of no format that is read here. What is read: {READ}"
