"""Zip archives of strangers: judged by their directory before anything is unpacked, and counted while it is.

Archives inside of archives stay closed.
"""

from __future__ import annotations

import re
import stat
import zipfile
import zlib
from pathlib import Path

from learning.refusals import InvalidModel, TooLarge
from services.task_service.conversion.limits import ConversionLimits

_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@ +\-]{0,199}")
_MAX_LEVELS = 8
_BLOCK = 1024 * 1024
_BROKEN = (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, zlib.error, EOFError, ValueError)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Archive:
    """The members of an archive, all of them judged."""

    def __init__(self, path: Path, limits: ConversionLimits) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
            members = self._zip.infolist()
        except _BROKEN as broken:
            raise InvalidModel(problem="the zip archive is damaged") from broken
        if len(members) > limits.members:
            raise InvalidModel(problem=f"the zip archive has more than {limits.members} files")
        if sum(member.file_size for member in members) > limits.file_bytes:
            raise TooLarge(limit_bytes=limits.file_bytes)
        for member in members:
            _check(member)
        self._members = {member.filename: member for member in members if not member.is_dir()}
        if len({name.casefold() for name in self._members}) != sum(not member.is_dir() for member in members):
            raise InvalidModel(problem="the zip archive has two files of one name")

    @property
    def names(self) -> list[str]:
        return list(self._members)

    def unpack(self, name: str, target: Path) -> Path:
        """Writes one member to `target`."""
        member = self._members[name]
        left = member.file_size
        try:
            with self._zip.open(member) as source, target.open("wb") as file:
                while block := source.read(_BLOCK):
                    left -= len(block)
                    if left < 0:
                        raise InvalidModel(problem=f"{name[:100]} in the zip archive is larger than announced")
                    file.write(block)
        except _BROKEN as broken:
            raise InvalidModel(problem=f"{name[:100]} in the zip archive is damaged") from broken
        return target

    def unpack_all(self, folder: Path) -> Path:
        """The folder that holds the files: `folder`, or the only folder in the archive."""
        for name in self._members:
            target = folder / name
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as both:
                raise InvalidModel(problem=f"{name[:100]} in the zip archive is a file and a folder") from both
            if target.is_dir():
                raise InvalidModel(problem=f"{name[:100]} in the zip archive is a file and a folder")
            self.unpack(name, target)
        inside = [each for each in folder.iterdir() if each.name != "__MACOSX"]
        return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _check(member: zipfile.ZipInfo) -> None:
    name = member.filename.removesuffix("/")
    parts = name.split("/")
    if len(parts) > _MAX_LEVELS or any(part in (".", "..") or not _NAME.fullmatch(part) for part in parts):
        raise InvalidModel(problem=f"the zip archive has a file of the name {name[:100]!r}, which is not taken")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InvalidModel(problem=f"{name[:100]} in the zip archive is a link")
    if member.flag_bits & 0x1:
        raise InvalidModel(problem=f"{name[:100]} in the zip archive is encrypted")
    if member.compress_type not in _METHODS:
        raise InvalidModel(problem=f"{name[:100]} in the zip archive is compressed in a way other than deflate")
