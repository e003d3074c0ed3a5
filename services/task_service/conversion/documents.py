"""JSON files of strangers: parsed with the limits that topologies have."""

from __future__ import annotations

from pathlib import Path

import msgspec

from learning.refusals import InvalidModel
from services.task_service.topology.document import MAX_JSON_BYTES, parse


def read_document(path: Path, what: str) -> dict[str, object]:
    """The object in a file. Raises InvalidModel."""
    with path.open("rb") as file:
        return document_of(file.read(MAX_JSON_BYTES + 1), what)


def document_of(text: bytes | str, what: str) -> dict[str, object]:
    """Raises InvalidModel."""
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
    except UnicodeDecodeError as broken:
        raise InvalidModel(problem=f"{what} is not a text") from broken
    parse(decoded, what)
    return msgspec.json.decode(decoded, type=dict[str, object])
