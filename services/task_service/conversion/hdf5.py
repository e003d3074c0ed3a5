"""HDF5 files of strangers, by h5py: no link is followed, nothing outside of the file is opened, nothing is unpacked.

What Keras writes is plain: groups, attributes and contiguous datasets. All else is refused,
since compressed, virtual and external datasets are how a small file asks for much.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from learning.refusals import InvalidModel
from services.task_service.conversion.tensors import Tensor

_MAX_NAMES = 20_000
_BROKEN = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError, NotImplementedError)
"""What h5py raises on files that are damaged, in ways that nobody lists."""


def h5py() -> Any:
    """The library, imported when it is needed. Raises InvalidModel, saying what to install."""
    try:
        import h5py as library
    except ImportError as missing:
        raise InvalidModel(
            problem="Keras files need h5py, which is not installed here: pip install 'disco-server[convert]'"
        ) from missing
    return library


@contextmanager
def reading(path: Path) -> Iterator[File]:
    """Raises InvalidModel."""
    library = h5py()
    with _damage_named():
        file = library.File(path, "r", locking=False)
    with file:
        yield File(library, file)


@contextmanager
def _damage_named() -> Iterator[None]:
    try:
        yield
    except _BROKEN as broken:
        raise InvalidModel(problem=f"the HDF5 file is damaged: {str(broken)[:200]}") from broken


class File:
    """Groups and datasets by their paths."""

    def __init__(self, library: Any, file: Any) -> None:
        self._library = library
        self._file = file

    @_damage_named()
    def group(self, path: str) -> Any | None:
        found = self._at(path)
        return found if isinstance(found, self._library.Group) else None

    @_damage_named()
    def text(self, path: str, name: str) -> str | None:
        """An attribute that is a text."""
        group = self.group(path)
        if group is None or name not in group.attrs:
            return None
        value = group.attrs[name]
        return value.decode() if isinstance(value, bytes) else str(value)

    @_damage_named()
    def names(self, path: str, name: str) -> list[str]:
        """An attribute that is a list of texts; long ones are cut into `name0`, `name1`, …"""
        group = self.group(path)
        if group is None:
            raise InvalidModel(problem=f"the HDF5 file has no group {path[:100]}")
        if name in group.attrs:
            return _texts(group.attrs[name])
        found: list[str] = []
        part = 0
        while f"{name}{part}" in group.attrs:
            found += _texts(group.attrs[f"{name}{part}"])
            part += 1
        return found

    @_damage_named()
    def tensor(self, path: str) -> Tensor | None:
        found = self._at(path)
        if not isinstance(found, self._library.Dataset):
            return None
        if found.is_virtual or found.external or found.chunks is not None:
            raise InvalidModel(problem=f"the dataset {path[:200]} is compressed or lies elsewhere; save it with Keras")
        return Tensor(tuple(found.shape), found.dtype.name, _damage_named()(lambda: found[()]))

    def _at(self, path: str) -> Any | None:
        """What a path names, where every step of it is a plain link."""
        at = self._file
        for part in path.split("/"):
            if not part:
                continue
            if not isinstance(at, self._library.Group):
                return None
            link = at.get(part, getlink=True) if part in at or part in at.keys() else None  # noqa: SIM118
            if link is None:
                return None
            if not isinstance(link, self._library.HardLink):
                raise InvalidModel(problem=f"{path[:200]} in the HDF5 file is a link to somewhere else")
            at = at[part]
        return at


def _texts(values: Any) -> list[str]:
    array = np.atleast_1d(np.asarray(values))
    if array.size > _MAX_NAMES:
        raise InvalidModel(problem=f"the HDF5 file lists more than {_MAX_NAMES} names")
    return [value.decode() if isinstance(value, bytes) else str(value) for value in array.tolist()]
