"""Drives the rounds: closes what is due, ends leases, looks again when something may have changed.

Short and dull: everything it decides is asked of `learning.federated`. One task of the
event loop attends each open round; all replicas attend all rounds, and the round store
lets one of them through.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from learning.federated import RoundMoved, RoundStatus, State, is_due, look_again_at
from learning.ids import TaskId
from learning.refusals import DiscoError, StoreUnavailable
from roundstore.store import Hint, RoundStore
from services.aggregator.changes import Changes, either
from services.aggregator.closing import Closing
from services.aggregator.intake import Intake
from services.aggregator.rounds import Rounds
from services.aggregator.salvage import Salvage
from services.aggregator.upkeep import Upkeep

LEASES_S = 1.0
"""How often leases are checked where somebody holds one."""
CALM_S = 0.02
"""Hints that come so close to each other are one. The replica where a round became due needs none."""
SWEEP_S = 1.0
IDLE_S = 30.0
"""How often a round is looked at where nothing is expected: hints may be lost."""
FAULT_S = 10.0
AGAIN_S = 0.02
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
_log = structlog.stdlib.get_logger("aggregator")


class Coordinator:
    """Attends all open rounds of a store, for one replica."""

    def __init__(
        self,
        store: RoundStore,
        *,
        rounds: Rounds,
        changes: Changes,
        closing: Closing,
        intake: Intake,
        salvage: Salvage,
        upkeep: Upkeep,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._rounds = rounds
        self._changes = changes
        self._closing = closing
        self._intake = intake
        self._salvage = salvage
        self._upkeep = upkeep
        self._clock = clock
        self._attended: dict[TaskId, asyncio.Task[None]] = {}
        self._store_is_lost = False

    async def run(self) -> None:
        """Runs until cancelled. The store's first hints name every open round, those that dead replicas left, too."""
        looking = asyncio.create_task(self._look_for_rounds())
        try:
            await self._changes.follow(self._notice)
        finally:
            started = [looking, *self._attended.values()]
            for task in started:
                task.cancel()
            await asyncio.gather(*started, return_exceptions=True)

    async def _look_for_rounds(self) -> None:
        """Finds rounds that no hint named. Any hint may be lost, the last one that a round would ever give, too."""
        while True:
            await asyncio.sleep(IDLE_S)
            with suppress(StoreUnavailable):
                for task_id in await self._store.list_open_tasks():
                    self._begin(task_id)

    def _notice(self, hint: Hint) -> None:
        if hint.seen_at is None:
            self._rounds.forget_seen(hint.task_id)
        self._begin(hint.task_id)

    def _begin(self, task_id: TaskId) -> None:
        if task_id not in self._attended:
            self._attended[task_id] = asyncio.create_task(self._attend(task_id))

    async def _attend(self, task_id: TaskId) -> None:
        attendance = _Attendance()
        told: tuple[str, int] | None = None
        while True:
            hint, due = self._changes.next(task_id), self._changes.due(task_id)
            try:
                if await self._upkeep.ended(task_id):
                    break
                seconds = await self._look(task_id, attendance, told)
            except StoreUnavailable:
                self._say_whether_lost(True)
                self._salvage.forget(task_id)
                await asyncio.sleep(attendance.longer_pause())
            except DiscoError as error:
                _log.error("round.stuck", task_id=task_id, reason=error.reason, sentence=str(error))
                attendance.met = None
                self._salvage.forget(task_id)  # something is lost, perhaps: it is looked at anew
                await asyncio.sleep(FAULT_S)
            # The pump: whatever goes wrong with one look, the round must be looked at again.
            except Exception:  # noqa: BLE001
                _log.exception("round.failed", task_id=task_id)
                await asyncio.sleep(FAULT_S)
            else:
                self._say_whether_lost(False)
                await either(hint, seconds=seconds)
                if hint.is_set():
                    await either(due, seconds=CALM_S)
                told = self._changes.newest(task_id) if hint.is_set() else None
        self._intake.forget(task_id)
        del self._attended[task_id]

    async def _look(self, task_id: TaskId, attendance: _Attendance, told: tuple[str, int] | None) -> float:
        """Does what is to be done now; seconds until something may be, though nothing is heard."""
        if attendance.met is None:
            await self._salvage.meet(task_id)
        now = self._clock()
        status = await self._status(task_id, attendance, now, told)
        attendance.pause_s = FIRST_PAUSE_S
        if status is None:
            return IDLE_S  # the store was emptied; the next call opens the round again
        self._rounds.saw(status)
        self._intake.look(status)
        behind = await self._met(status, attendance)
        await self._sweep(status, attendance, now)
        if behind or is_due(status, now) or self._closing.is_ours(status):
            return 0.0 if await self._closing.close(status) else AGAIN_S
        moments = [IDLE_S if attendance.is_swept else SWEEP_S]
        if status.participants:
            moments.append(LEASES_S)
        if (at := look_again_at(status)) is not None:
            moments.append(max(at - now, AGAIN_S))
        return min(moments)

    async def _status(
        self, task_id: TaskId, attendance: _Attendance, now: float, told: tuple[str, int] | None
    ) -> RoundStatus | None:
        """The round, without those whose leases have ended."""
        if now < attendance.leases_checked_at + LEASES_S:
            return self._rounds.seen_at(task_id, told) or await self._store.read_status(task_id)
        try:
            status = await self._store.expire_leases(task_id, now=now)
        except RoundMoved:
            return None
        attendance.leases_checked_at = now
        return status

    async def _met(self, status: RoundStatus, attendance: _Attendance) -> bool:
        """Looks at a round that was not seen before; whether it is behind its versions."""
        if attendance.met == (status.epoch, status.number):
            return False
        if status.state is State.COLLECTING and await self._rounds.is_behind(status):
            return True
        attendance.met = status.epoch, status.number
        attendance.is_swept = False
        return False

    async def _sweep(self, status: RoundStatus, attendance: _Attendance, now: float) -> None:
        """Deletes what earlier rounds left, not after each round where they follow each other fast."""
        if not attendance.is_swept and now >= attendance.swept_at + SWEEP_S:
            attendance.is_swept, attendance.swept_at = await self._upkeep.sweep(status), now

    def _say_whether_lost(self, is_lost: bool) -> None:
        if is_lost is not self._store_is_lost:
            self._store_is_lost = is_lost
            if is_lost:
                _log.warning("store.lost", sentence="Rounds wait until the store can be reached again.")
            else:
                _log.info("store.found")


@dataclass(slots=True)
class _Attendance:
    """What is remembered of one task between two looks."""

    leases_checked_at: float = -math.inf
    met: tuple[str, int] | None = None
    is_swept: bool = False
    swept_at: float = -math.inf
    pause_s: float = FIRST_PAUSE_S

    def longer_pause(self) -> float:
        self.met = None  # a store that comes back may have lost its newest writes
        pause, self.pause_s = self.pause_s, min(2 * self.pause_s, LONGEST_PAUSE_S)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 (so that replicas do not come back all at once)
