"""Why the system cannot start, as one sentence that says what to do."""

from __future__ import annotations


class CannotStart(Exception):
    """The system cannot start; the text is for people."""
