"""Files that come as multipart/form-data (RFC 7578), written to a directory as they come.

Nothing is held but what the parser is looking at. Names that a stranger chose are never used: every part is
a file with a number, and what it calls itself is checked later. Knows nothing of tasks and models.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from learning.refusals import MalformedMessage

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS: Final = 4100
"""A task, a model, and as many shards as a model may have."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part: how its field and its file are called by whoever sent it, and where its bytes are."""

    field: str
    file_name: str
    path: Path


def boundary_of(content_type: str) -> bytes | None:
    """The boundary, where a content type is multipart/form-data. Raises MalformedMessage where it has none."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        return None
    if not options.get(b"boundary"):
        raise MalformedMessage(problem="the content type is multipart/form-data and names no boundary")
    return options[b"boundary"]


async def receive_parts(chunks: AsyncIterable[bytes], boundary: bytes, directory: Path) -> list[Part]:
    """Writes every part to a file of its own. Raises MalformedMessage, OSError."""
    receiving = _Receiving(directory)
    try:
        parser = MultipartParser(boundary, receiving.callbacks())
        async for chunk in chunks:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise MalformedMessage(problem=f"the parts of the body cannot be told apart: {str(error)[:200]}") from None
    finally:
        receiving.close()
    if not receiving.is_complete:
        raise MalformedMessage(problem="the body ends before its last boundary")
    return receiving.parts


class _Receiving:
    """What the parser calls back."""

    def __init__(self, directory: Path) -> None:
        self.parts: list[Part] = []
        self.is_complete = False
        self._directory = directory
        self._name, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._file: IO[bytes] | None = None

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self.close,
            "on_end": self._end,
        }

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self) -> None:
        self._disposition = b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise MalformedMessage(problem="a part has no name")
        if len(self.parts) == MAX_PARTS:
            raise MalformedMessage(problem=f"the body has more than {MAX_PARTS} parts")
        path = self._directory / f"part-{len(self.parts)}"
        field, file_name = (options.get(key, b"").decode(errors="replace") for key in (b"name", b"filename"))
        self.parts.append(Part(field, file_name, path))
        self._file = path.open("xb")

    def _data(self, data: bytes, start: int, end: int) -> None:
        assert self._file is not None, "data come behind the headers of their part"
        self._file.write(memoryview(data)[start:end])

    def _end(self) -> None:
        self.is_complete = True
