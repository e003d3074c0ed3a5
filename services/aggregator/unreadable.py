"""What keeps a round from being closed now, and perhaps not a moment later."""

from __future__ import annotations


class Unreadable(Exception):
    """A blob is not there, or not what is stated of it."""

    def __init__(self, blob: str) -> None:
        super().__init__(blob)
        self.blob = blob
