"""The variables of a SavedModel: a sorted table of names beside files with the bytes.

The table is read as TensorFlow writes it, its blocks uncompressed; keys share the beginning of the
key before.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.task_service.conversion.messages import damaged, fields, inner, number, varint
from services.task_service.conversion.tensors import Tensor

_FOOTER = 48
_MAGIC = 0xDB4775248B80FB57
_TRAILER = 5
_MAX_INDEX_BYTES = 16 * 1024 * 1024
_DTYPES = {1: ("float32", "<f4"), 19: ("float16", "<f2")}
_OTHERS = {2: "float64", 3: "int32", 7: "string", 9: "int64", 10: "bool", 14: "bfloat16"}


class TensorBundle:
    """Raises InvalidModel."""

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        index = prefix.with_name(f"{prefix.name}.index")
        if not index.is_file() or not _FOOTER <= index.stat().st_size <= _MAX_INDEX_BYTES:
            raise damaged()
        self._entries = dict(_table(index.read_bytes()))
        header = dict(fields(self._entries.get(b"", b"")))
        self._shards = number(header.get(1, 1))
        if header.get(2, 0) != 0 or not 1 <= self._shards <= 1000:
            raise damaged()

    def tensor(self, key: str) -> Tensor | None:
        entry = self._entries.get(key.encode())
        if entry is None:
            return None
        found = dict(fields(entry))
        if 7 in found:
            raise damaged()  # in slices: nothing that Keras saves on one machine
        kind = number(found.get(1, 0))
        dtype, numpy_name = _DTYPES.get(kind, (_OTHERS.get(kind, f"number {kind}"), ""))
        return Tensor(_shape(found.get(2, b"")), dtype, partial(self._values, found, numpy_name))

    def octets(self, key: str) -> bytes:
        """The one string in a tensor of strings."""
        entry = self._entries.get(key.encode())
        if entry is None:
            raise damaged()
        data = memoryview(self._data(dict(fields(entry))))
        size, at = varint(data, 0)
        if at + 4 + size != len(data):
            raise damaged()
        return bytes(data[at + 4 :])

    def _values(self, entry: dict[int, int | bytes], dtype: str) -> NDArray[Any]:
        data = self._data(entry)
        if not dtype or len(data) % np.dtype(dtype).itemsize:
            raise damaged()
        return np.frombuffer(data, dtype)

    def _data(self, entry: dict[int, int | bytes]) -> bytes:
        shard, offset, size = (number(entry.get(field, 0)) for field in (3, 4, 5))
        path = self._prefix.with_name(f"{self._prefix.name}.data-{shard:05}-of-{self._shards:05}")
        if not path.is_file() or offset + size > path.stat().st_size:
            raise damaged()
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


def _shape(message: int | bytes) -> tuple[int, ...]:
    sizes = [dict(fields(inner(value))).get(1, 0) for field, value in fields(inner(message)) if field == 2]
    return tuple(number(size) for size in sizes)


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    view = memoryview(data)
    footer = view[-_FOOTER:]
    if int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise damaged()
    _, at = varint(footer, 0)
    _, at = varint(footer, at)
    for _, handle in _block(view, footer[at:]):
        yield from _block(view, memoryview(handle))


def _block(view: memoryview, handle: memoryview) -> Iterator[tuple[bytes, bytes]]:
    offset, at = varint(handle, 0)
    size, _ = varint(handle, at)
    end = offset + size
    if end + _TRAILER > len(view) or size < 4 or view[end] != 0:
        raise damaged()
    restarts = int.from_bytes(view[end - 4 : end], "little")
    end -= 4 * (restarts + 1)
    if end < offset:
        raise damaged()
    key, at = b"", offset
    while at < end:
        shared, at = varint(view, at)
        own, at = varint(view, at)
        length, at = varint(view, at)
        if shared > len(key) or at + own + length > end:
            raise damaged()
        key = key[:shared] + bytes(view[at : at + own])
        yield key, bytes(view[at + own : at + own + length])
        at += own + length
