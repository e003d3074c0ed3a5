"""Ids: what a task, a participant and a peer may be called.

Knows nothing of where an id came from. Everything that goes into a key, a path
or a URL passes `valid_id` first.
"""

from __future__ import annotations

import re
from typing import NewType

from learning.refusals import InvalidId

TaskId = NewType("TaskId", str)
ParticipantId = NewType("ParticipantId", str)
PeerId = NewType("PeerId", str)
ReplicaId = NewType("ReplicaId", str)

_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def valid_id(text: str, kind: str) -> str:
    """Returns `text` if it is an id; `kind` names it in the refusal ("task", "participant").

    Raises InvalidId otherwise, and for `.` and `..`, which are no file names.
    """
    if not _ID.fullmatch(text) or text in (".", ".."):
        raise InvalidId(kind=kind)
    return text


def task_id(text: str) -> TaskId:
    return TaskId(valid_id(text, "task"))


def participant_id(text: str) -> ParticipantId:
    return ParticipantId(valid_id(text, "participant"))


def peer_id(text: str) -> PeerId:
    return PeerId(valid_id(text, "peer"))
