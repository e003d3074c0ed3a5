"""What OpenAPI says of parameters and answers. Checks nothing: the routes do, by names of our own.

Ids that are none are refused as INVALID_ID, which the framework's own checks would not say: so they are described
here, and checked there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import Path

JSON = "application/json"
PROBLEM = "application/problem+json"
OCTETS = "application/octet-stream"
ID_PATTERN = r"^(?!\.{1,2}$)[A-Za-z0-9_.-]+$"

TaskPath = Annotated[
    str, Path(description="Id of the task.", json_schema_extra={"pattern": ID_PATTERN, "maxLength": 128})
]

_DETAILS = {
    206: "The bytes that `Range` names",
    304: "What `If-None-Match` names is what is there",
    400: "INVALID_ID, MALFORMED_MESSAGE",
    403: "TASK_CREATION_DENIED: who may is a setting",
    404: "TASK_NOT_FOUND, VERSION_NOT_FOUND, NOT_IN_VERSION, WRONG_SCHEME, FILE_NOT_FOUND",
    406: "NOT_ACCEPTABLE: no client of the generation that asks could run this model",
    408: "STREAM_STALLED: the body paused for too long",
    409: "TASK_ALREADY_EXISTS, TASK_DELETED, TASK_FIELD_FIXED",
    412: "TASK_CHANGED: `If-Match` does not name what is there",
    413: "TOO_LARGE",
    416: "RANGE_NOT_SATISFIABLE: there are no such bytes",
    422: "INVALID_REQUEST: a number or a digest that is none",
    429: "TOO_MANY_UPLOADS: from one address in a minute; `Retry-After` says when to try again",
    500: "STORED_DATA_DAMAGED, INTERNAL: see the server's log",
    501: "PRIVACY_NOT_ACCOUNTED: the server lacks a library that the task needs",
    503: "STORE_UNAVAILABLE: try again",
    507: "QUOTA_EXCEEDED, STORAGE_FULL",
}


def answers(kinds: Iterable[str], *more: int) -> dict[int | str, dict[str, Any]]:
    """A body of one of `kinds`, or a problem document; `more` statuses beside those that every GET may have."""
    content: dict[str, Any] = {kind: {} for kind in kinds}
    described: dict[int | str, dict[str, Any]] = {200: {"description": "As described above", "content": content}}
    for status in sorted({304, 400, 404, 422, 500, 503, *more}):
        described[status] = {"description": _DETAILS[status]}
        if status == 206:
            described[status]["content"] = content
        elif status != 304:
            described[status]["content"] = {PROBLEM: {}}
    return described
