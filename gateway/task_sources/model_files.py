"""A TF.js LayersModel as files: `model.json`, and the shards that its manifest names, in one directory.

    description     what the task service is told before the weights
    chunks()        the weights, canonical float32, one chunk in memory at a time; quantized ones are made whole

Nothing of what the files say is trusted: names are checked before anything is
opened, and sizes before anything is read. Knows no HTTP and not how the files came here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import numpy as np
from disco.task.v1.task_pb2 import Model

from gateway.dialects.model_uploads import MAX_DOCUMENT_BYTES, PushedModel
from gateway.task_sources.given_digest import GivenDigest
from gateway.uploads import parse_json
from learning.limits import MAX_TENSORS
from learning.refusals import InvalidModel, MalformedMessage, TooLarge

MODEL_FILE: Final = "model.json"
MAX_MODEL_FILE_BYTES: Final = 2 * MAX_DOCUMENT_BYTES
"""Of model.json: a topology and the specs of its weights."""
MAX_SHARDS: Final = 4096
MAX_DIMENSIONS: Final = 16
CHUNK_BYTES: Final = 1 << 18
"""Small: on its way into a call, a chunk is copied a few times. A transfer of 64 MB adds 1.6 MB to the gateway."""

_SHARD_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}(/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}){0,3}")
_QUANTIZED_AS: Final[Mapping[str, str]] = {"float16": "<f2", "uint8": "u1", "uint16": "<u2"}


def safe_name(name: str) -> str:
    """A shard's name as it may be used below a directory or a URL. Raises InvalidModel."""
    name = name.removeprefix("./")  # TF.js itself writes it so where it sends a model
    if not _SHARD_NAME.fullmatch(name):
        raise InvalidModel(problem=f"{name[:200]!r} is no name for a shard: letters, digits, '_', '-', '.', below it")
    return name


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor as it lies in the shards."""

    name: str
    shape: tuple[int, ...]
    stored_as: str
    """NumPy's name of what lies there."""
    scale: float
    minimum: float
    is_kept: bool
    """False for the slots of an optimizer, which are not weights."""

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def stored_bytes(self) -> int:
        return self.size * np.dtype(self.stored_as).itemsize


@dataclass(frozen=True, slots=True)
class _Group:
    """Shards that, one behind the other, hold tensors one behind the other."""

    paths: tuple[str, ...]
    tensors: tuple[_Tensor, ...]


class ModelFiles:
    """A model whose `model.json` lies in `directory`. Raises InvalidModel, TooLarge when it is read."""

    def __init__(self, directory: Path, *, file: str = MODEL_FILE, limit_bytes: int) -> None:
        document = _document(directory / file)
        self._topology, self._training_config = _topology(document), document.get("trainingConfig")
        self._groups = _groups(document.get("weightsManifest"))
        self._places: Mapping[str, Path] = {path: directory / path for path in self.shards}
        if max(self.weights_size, sum(size for _, size in self.stored_sizes())) > limit_bytes:
            raise TooLarge(limit_bytes=limit_bytes)

    @property
    def shards(self) -> list[str]:
        """The names of all shards, in order, as the manifest has them; relative, and safe to use."""
        return [path for group in self._groups for path in group.paths]

    @cached_property
    def weights_size(self) -> int:
        """Bytes of the canonical weights; 0 where there are none."""
        return 4 * sum(tensor.size for group in self._groups for tensor in group.tensors if tensor.is_kept)

    def stored_sizes(self) -> list[tuple[tuple[str, ...], int]]:
        """For every group of shards its names, and the bytes that they have together."""
        return [(group.paths, sum(tensor.stored_bytes for tensor in group.tensors)) for group in self._groups]

    @property
    def description(self) -> PushedModel:
        """The model apart from its weights."""
        training = self._training_config
        return PushedModel(
            kind=Model.KIND_TFJS,
            topology_json=msgspec.json.encode(self._topology),
            training_config_json=b"" if training is None else msgspec.json.encode(training),
            weight_specs=tuple((t.name, t.shape) for group in self._groups for t in group.tensors if t.is_kept),
            weights=b"",
        )

    def check(self, digest: GivenDigest | None = None, *, places: Mapping[str, Path] | None = None) -> None:
        """Whether every shard is there with the bytes that it must have. Raises InvalidModel, DigestMismatch.

        `places` says where shards are; without it they are where their names say, below the directory.
        """
        self._places = self._places if places is None else places
        for paths, expected in self.stored_sizes():
            missing = [path for path in paths if path not in self._places or not self._places[path].is_file()]
            if missing:
                raise InvalidModel(problem=f"its shards are missing: {', '.join(missing[:5])}")
            found = sum(self._places[path].stat().st_size for path in paths)
            if found != expected:
                problem = f"its shards {', '.join(paths[:5])} have {found} bytes, its weights have {expected}"
                raise InvalidModel(problem=problem)
        if digest is not None:
            digest.check(self._stored())

    def _stored(self) -> Iterator[bytes]:
        """All shards as they are."""
        for path in self.shards:
            with self._places[path].open("rb") as shard:
                while chunk := shard.read(CHUNK_BYTES):
                    yield chunk

    def chunks(self) -> Iterator[bytes]:
        """The weights. Call `check` before: here every shard is taken to have the bytes that it must have."""
        for group in self._groups:
            with _Shards([self._places[path] for path in group.paths]) as shards:
                for tensor in group.tensors:
                    yield from _values(shards, tensor)


class _Shards:
    """Several files read as one."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = iter(paths)
        self._stack = ExitStack()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises InvalidModel where a file has shrunk since it was checked."""
        parts = []
        while count:
            part = self._file.read(count) if self._file else b""
            if not part:
                self._next_file()
                continue
            parts.append(part)
            count -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _next_file(self) -> None:
        path = next(self._paths, None)
        if path is None:
            raise InvalidModel(problem="a shard was changed while it was read")
        self._stack.close()
        self._file = self._stack.enter_context(path.open("rb"))


def _values(shards: _Shards, tensor: _Tensor) -> Iterator[bytes]:
    stored = np.dtype(tensor.stored_as)
    left = tensor.size
    while left:
        count = min(left, CHUNK_BYTES // 4)
        data = shards.read(count * stored.itemsize)
        left -= count
        if not tensor.is_kept:
            continue
        if tensor.stored_as == "<f4":
            yield data
        elif tensor.stored_as == "<f2":
            yield np.frombuffer(data, "<f2").astype("<f4").tobytes()
        else:
            # As TF.js does it: in double precision, rounded once.
            values = np.frombuffer(data, stored).astype(np.float64) * tensor.scale + tensor.minimum
            yield values.astype("<f4").tobytes()


def _document(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > MAX_MODEL_FILE_BYTES:
            raise TooLarge(limit_bytes=MAX_MODEL_FILE_BYTES)
        document = parse_json(path.read_bytes())
    except OSError as error:
        raise InvalidModel(problem=f"{path.name} cannot be read ({error.strerror})") from None
    except MalformedMessage as refusal:
        raise InvalidModel(problem=f"{path.name}: {refusal.variables['problem']}") from None
    if not isinstance(document, Mapping):
        raise InvalidModel(problem=f"{path.name} is no object")
    return document


def _topology(document: Mapping[str, Any]) -> Mapping[str, Any]:
    topology = document.get("modelTopology")
    if document.get("format") == "graph-model" or (isinstance(topology, Mapping) and "node" in topology):
        raise InvalidModel(
            problem="it is a GraphModel, whose weights are constants that no client can train; "
            "save the Keras model itself and convert it to a LayersModel (output format tfjs_layers_model)"
        )
    if not isinstance(topology, Mapping):
        raise InvalidModel(problem="modelTopology is missing")
    return topology


def _groups(manifest: object) -> tuple[_Group, ...]:
    if manifest is None:
        return ()
    try:
        groups = msgspec.convert(manifest, list[_GroupDocument])
    except msgspec.ValidationError as error:
        raise InvalidModel(problem=f"weightsManifest: {str(error)[:300]}") from None
    if sum(len(group.weights) for group in groups) > MAX_TENSORS:
        raise InvalidModel(problem=f"it has more than {MAX_TENSORS} tensors")
    if sum(len(group.paths) for group in groups) > MAX_SHARDS:
        raise InvalidModel(problem=f"it has more than {MAX_SHARDS} shards")
    read = tuple(
        _Group(tuple(safe_name(path) for path in group.paths), tuple(_tensor(spec) for spec in group.weights))
        for group in groups
    )
    names = [tensor.name for group in read for tensor in group.tensors]
    if len(set(names)) != len(names):
        raise InvalidModel(problem="two of its weights have the same name")
    paths = [path for group in read for path in group.paths]
    if len(set(paths)) != len(paths):
        raise InvalidModel(problem="a shard is named twice")
    return read


class _Quantization(msgspec.Struct):
    dtype: str
    scale: float = 1.0
    min: float = 0.0


class _SpecDocument(msgspec.Struct):
    name: str
    shape: list[int]
    dtype: str = "float32"
    group: str | None = None
    quantization: _Quantization | None = None


class _GroupDocument(msgspec.Struct):
    paths: list[str]
    weights: list[_SpecDocument]


_OF_OPTIMIZERS: Final[Mapping[str, str]] = {"float32": "<f4", "int32": "<i4", "bool": "u1"}


def _tensor(spec: _SpecDocument) -> _Tensor:
    shape, of_optimizer = tuple(spec.shape), spec.group == "optimizer"
    if len(shape) > MAX_DIMENSIONS or not all(0 <= size < 2**32 for size in shape) or math.prod(shape) >= 2**40:
        raise InvalidModel(problem=f"the shape of weight {spec.name[:256]} is not possible")
    if spec.quantization is None and of_optimizer and spec.dtype in _OF_OPTIMIZERS:
        return _Tensor(spec.name, shape, _OF_OPTIMIZERS[spec.dtype], 1.0, 0.0, is_kept=False)
    if spec.dtype != "float32":
        problem = f"weight {spec.name[:256]} is of type {spec.dtype[:32]}; weights must be float32"
        raise InvalidModel(problem=problem)
    if spec.quantization is None:
        return _Tensor(spec.name, shape, "<f4", 1.0, 0.0, is_kept=not of_optimizer)
    stored = spec.quantization.dtype
    if stored not in _QUANTIZED_AS:
        problem = f"weight {spec.name[:256]} is quantized as {stored[:32]}; uint8, uint16 and float16 can be read"
        raise InvalidModel(problem=problem)
    scale, minimum = spec.quantization.scale, spec.quantization.min
    return _Tensor(spec.name, shape, _QUANTIZED_AS[stored], scale, minimum, is_kept=not of_optimizer)
