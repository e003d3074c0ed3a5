"""The last refusals of a task in Redis: a stream that is cut to its newest entries. Knows no rounds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from redis.asyncio import Redis

from learning.ids import ParticipantId, TaskId
from learning.refusals import MalformedMessage
from roundstore import redis_keys
from roundstore.redis_faults import store_faults
from roundstore.store import REFUSALS_KEPT, NotedRefusal

_TOKEN = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")


async def note(redis: Redis, task_id: TaskId, refusals: Sequence[NotedRefusal]) -> None:
    key = redis_keys.refusals(task_id)
    with store_faults():
        async with redis.pipeline(transaction=True) as pipeline:
            for refusal in refusals[-REFUSALS_KEPT:]:
                pipeline.xadd(key, _fields(refusal), maxlen=REFUSALS_KEPT, approximate=False)
            pipeline.expire(key, redis_keys.REFUSALS_TTL_S)
            await pipeline.execute()


async def newest(redis: Redis, task_id: TaskId, *, limit: int, before: str) -> tuple[list[NotedRefusal], str]:
    """Raises MalformedMessage where `before` is no token."""
    if before and not _TOKEN.fullmatch(before):
        raise MalformedMessage(problem="that is no page token of a list of refusals")
    with store_faults():
        found = await redis.xrevrange(
            redis_keys.refusals(task_id), max=f"({before}" if before else "+", min="-", count=limit + 1
        )
    entries = cast(list[tuple[bytes, dict[bytes, bytes]]], found)
    token = entries[limit - 1][0].decode() if len(entries) > limit else ""
    return [_refusal(fields) for _, fields in entries[:limit]], token


def _fields(refusal: NotedRefusal) -> dict[Any, Any]:
    return {
        "participant_id": refusal.participant_id,
        "round": refusal.round,
        "reason": refusal.reason,
        "sentence": refusal.sentence.encode(errors="replace"),
        "digest": refusal.digest,
        "refused_at": repr(refusal.refused_at),
    }


def _refusal(fields: dict[bytes, bytes]) -> NotedRefusal:
    text = {name.decode(): value.decode() for name, value in fields.items()}
    return NotedRefusal(
        participant_id=ParticipantId(text["participant_id"]),
        round=int(text["round"]),
        reason=text["reason"],
        sentence=text["sentence"],
        digest=text["digest"],
        refused_at=float(text["refused_at"]),
    )
