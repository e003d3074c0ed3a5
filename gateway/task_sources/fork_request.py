"""The body of a request to fork a task: the new id, a title, the version to begin with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from gateway.descriptions import ID_PATTERN
from learning.refusals import InvalidTask
from learning.task import MAX_TEXT

MAX_FORK_BYTES: Final = 256 * 1024
_MAX_VERSION: Final = 2**63 - 1

FORK: Final[dict[str, Any]] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["id"],
                "properties": {
                    "id": {
                        "type": "string",
                        "description": "Id of the new task.",
                        "pattern": ID_PATTERN,
                        "maxLength": 128,
                    },
                    "title": {"type": "string", "maxLength": MAX_TEXT, "description": "Absent: as the other one."},
                    "version": {
                        "type": ["integer", "null"],
                        "minimum": 0,
                        "maximum": _MAX_VERSION,
                        "description": "Absent or null: the newest.",
                    },
                },
            }
        }
    },
}


@dataclass(frozen=True, slots=True)
class ForkWish:
    """What was asked for."""

    id: str
    title: str
    version: int | None


def read_fork(document: object) -> ForkWish:
    """Raises InvalidTask with everything that is wrong."""
    if not isinstance(document, dict):
        raise InvalidTask(field="id", problem="is missing: the body is no object")
    problems = []
    wanted, title, version = document.get("id"), document.get("title", ""), document.get("version")
    if not isinstance(wanted, str):
        problems.append(("id", "is missing" if wanted is None else "is not a text"))
    if not isinstance(title, str):
        problems.append(("title", "is not a text"))
    elif len(title) > MAX_TEXT:
        problems.append(("title", f"is longer than {MAX_TEXT} characters"))
    if isinstance(version, float) and version.is_integer():
        version = int(version)  # JSON knows no whole numbers: 5.0 is one
    is_number = isinstance(version, int) and not isinstance(version, bool) and 0 <= version <= _MAX_VERSION
    if version is not None and not is_number:
        problems.append(("version", "is not a whole number from 0 on"))
    if problems:
        raise InvalidTask(problems=problems)
    return ForkWish(str(wanted), str(title), version)
