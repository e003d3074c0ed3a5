"""safetensors: a JSON header, then the bytes of the tensors. Read here where Disco wrote it, topology included.

The format is eight bytes that tell the size of the header, the header, and the data without
holes; the canonical weights are such data as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from learning.limits import MAX_TENSORS
from learning.refusals import InvalidModel
from services.task_service.conversion.documents import document_of
from services.task_service.conversion.tensors import Found, Tensor

_MAX_HEADER_BYTES = 16 * 1024 * 1024
_ALIGNMENT = 8
_DTYPES = {"F32": ("float32", "<f4"), "F16": ("float16", "<f2")}
_NO_LAYERS = (
    "the safetensors file has weights and no layers. Build the layers with Keras, set the weights tensor by tensor, and"
    " save that model as .keras (docs/models.md)"
)


class _Entry(msgspec.Struct):
    dtype: str
    shape: Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]], msgspec.Meta(max_length=8)]
    data_offsets: tuple[int, int]


def begins(head: bytes) -> bool:
    return 2 <= int.from_bytes(head[:8], "little") <= _MAX_HEADER_BYTES


def header(tensors: Sequence[tuple[str, Sequence[int]]], metadata: Mapping[str, str]) -> bytes:
    """What stands before float32 tensors that follow each other in this order."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name, shape in tensors:
        end = at + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = msgspec.json.encode(entries)
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


@contextmanager
def read(path: Path) -> Iterator[Found]:
    """Raises InvalidModel."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        text = file.read(size)
    try:
        entries = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(entries.pop("__metadata__", msgspec.Raw(b"{}")), type=dict[str, str])
        described = {name: msgspec.json.decode(entry, type=_Entry) for name, entry in entries.items()}
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as broken:
        raise InvalidModel(problem=f"the header of the safetensors file is damaged: {str(broken)[:200]}") from broken
    if len(described) > MAX_TENSORS:
        raise InvalidModel(problem=f"it has more than {MAX_TENSORS} tensors")
    kind, topology = metadata.get("kind", "tfjs"), metadata.get("topology")
    if topology is None or kind not in ("tfjs", "gpt"):
        raise InvalidModel(problem=_NO_LAYERS)
    document_of(topology, "the topology")
    data = path.stat().st_size - 8 - size
    tensors = {name: _tensor(path, name, entry, start=8 + size, size=data) for name, entry in described.items()}
    yield Found(topology, "safetensors of Disco", tensors, metadata.get("training_config", ""), kind=kind)


def _tensor(path: Path, name: str, entry: _Entry, *, start: int, size: int) -> Tensor:
    dtype, numpy_name = _DTYPES.get(entry.dtype, (entry.dtype, ""))
    first, last = entry.data_offsets
    if numpy_name and not (0 <= first <= last <= size and last - first == int(numpy_name[-1]) * math.prod(entry.shape)):
        raise InvalidModel(problem=f"tensor {name[:100]} lies outside of the safetensors file")
    return Tensor(tuple(entry.shape), dtype, partial(_values, path, start + first, last - first, numpy_name))


def _values(path: Path, start: int, size: int, dtype: str) -> NDArray[Any]:
    if not dtype:
        raise InvalidModel(problem="it has a tensor of a type that is unknown here")
    with path.open("rb") as file:
        file.seek(start)
        return np.frombuffer(file.read(size), dtype)
