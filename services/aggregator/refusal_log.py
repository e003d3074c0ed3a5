"""The last refusals of each task, with their reasons: noted in passing, written to the round store afterwards.

Noting one costs an entry in a bounded queue and waits for nothing. One task writes them, many at
once; what comes faster than it writes pushes out the oldest, and where the store cannot be
reached they are lost. A refusal is as valid without its note, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

import structlog

from learning.ids import TaskId
from learning.refusals import (
    InvalidWeights,
    MalformedMessage,
    Refusal,
    StoreUnavailable,
    TooLarge,
    WeightsNotFinite,
)
from roundstore.store import REFUSALS_KEPT, NotedRefusal, RoundStore
from services.aggregator.submissions import Announced

MAX_TASKS = 64
MAX_SENTENCE = 512
WRITTEN_WITHIN_S = 2.0
DEFAULT_PAGE, MAX_PAGE = 20, 100
REFUSED_ELSEWHERE = frozenset(kind.reason for kind in (InvalidWeights, WeightsNotFinite, TooLarge, MalformedMessage))
"""What a gateway can find in a contribution, without the round."""

_log = structlog.stdlib.get_logger("aggregator")


class RefusalLog:
    """Of all tasks, at one replica."""

    def __init__(self, store: RoundStore, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._unwritten: OrderedDict[TaskId, deque[NotedRefusal]] = OrderedDict()
        self._writing: asyncio.Task[None] | None = None

    def note(self, announced: Announced, refusal: Refusal) -> None:
        """Of a task that exists: strangers must not be able to make keys."""
        self._note(announced, refusal.reason, str(refusal))

    def note_elsewhere(self, announced: Announced, reason: str, sentence: str) -> None:
        """Of a task that exists; a gateway refused it, before there was anything to submit. Raises MalformedMessage."""
        if reason not in REFUSED_ELSEWHERE:
            raise MalformedMessage(problem=f"reason must be one of {', '.join(sorted(REFUSED_ELSEWHERE))}")
        self._note(announced, reason, sentence)

    def _note(self, announced: Announced, reason: str, sentence: str) -> None:
        self._unwritten.setdefault(announced.task_id, deque(maxlen=REFUSALS_KEPT)).append(
            NotedRefusal(
                participant_id=announced.participant_id,
                round=announced.base_round,
                reason=reason,
                sentence=sentence[:MAX_SENTENCE],
                digest=announced.digest,
                refused_at=self._clock(),
            )
        )
        if len(self._unwritten) > MAX_TASKS:
            self._unwritten.popitem(last=False)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def page(self, task_id: TaskId, *, size: int, token: str) -> tuple[Sequence[NotedRefusal], str]:
        """The newest first, and the token of the next page. What this replica noted before is in it.

        Raises MalformedMessage, StoreUnavailable.
        """
        if size > MAX_PAGE:
            raise MalformedMessage(problem=f"a page has at most {MAX_PAGE} refusals")
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=WRITTEN_WITHIN_S)
        return await self._store.list_refusals(task_id, limit=size or DEFAULT_PAGE, before=token)

    def stop(self) -> None:
        """What is not written yet is lost."""
        if self._writing is not None:
            self._writing.cancel()

    async def _write(self) -> None:
        while self._unwritten:
            task_id, refusals = self._unwritten.popitem(last=False)
            try:
                await self._store.note_refusals(task_id, list(refusals))
            except StoreUnavailable:
                _log.warning("refusals.not_noted", task_id=task_id, refusals=len(refusals))
