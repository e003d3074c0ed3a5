"""How the clients of one generation behave where it matters to a session: data, not code.

What differs between generations and is no spelling stands here, so that no
session ever asks for a dialect's name (protocol sections 4.1 to 4.8).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Answering(Enum):
    """What a client that has contributed is told."""

    NOTHING = "nothing"
    """It asks for the newest version by itself."""
    WITH_ROUND = "with round"
    """The newest version under the number of its round."""
    WITH_ECHO = "with echo"
    """The newest version under the number that the client's contribution bore: it adopts no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """The manners of one generation's clients."""

    welcome_holds_version: bool
    """Whether the answer to Hello brings the newest version, from which the client trains."""
    answering: Answering
    answer_within_s: float | None
    """Seconds after a contribution has arrived for which its sender can be kept waiting; None: for ever."""
    peer_protocol: str
    """How peers speak with each other, where no server sees it: only peers of one protocol are introduced."""
    peer_patience_s: float | None
    """Seconds for which a ready peer waits for its peers; None: for ever."""
