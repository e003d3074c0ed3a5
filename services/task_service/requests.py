"""What every change of a task says of itself: the id of the request, by which a repeated one is known again."""

from __future__ import annotations

from learning.refusals import InvalidTask

MAX_REQUEST_ID = 128


def check_request_id(request_id: str) -> None:
    """Raises InvalidTask."""
    if len(request_id) > MAX_REQUEST_ID:
        raise InvalidTask(field="request_id", problem=f"is longer than {MAX_REQUEST_ID} characters")
