"""An event loop in which no time passes: when nothing is ready, it is the moment of the next timer.

Knows asyncio and nothing of what runs in it. There are no sockets and no threads; what
would run in a thread is run here, whole, after as long as `thread_seconds` says. A run
depends on nothing but the order in which its callbacks were scheduled, so it can be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, Protocol

MOST_STEPS_AT_ONCE = 20_000
UNWIND_S = 60.0
"""What ignores for so long that it is cancelled is left behind."""


class Owner(Protocol):
    """Whoever tasks belong to."""

    @property
    def alive(self) -> bool: ...

    def adopt(self, task: asyncio.Task[Any]) -> None: ...


OWNER: ContextVar[Owner | None] = ContextVar("owner", default=None)
"""Whose code is running. Tasks inherit it from the task that made them, as they do every context variable."""


class NothingWillHappen(Exception):
    """No callback is ready and no timer is set, and the awaited result is not there: everybody waits for ever."""


class Spinning(Exception):
    """Callbacks follow each other without end, and no time passes."""


class _NoSockets:
    """Stands where the base class has a selector: waiting is moving the clock on."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        self._loop.move_on(timeout)
        return []

    def close(self) -> None:
        pass


class VirtualLoop(asyncio.BaseEventLoop):
    """Time begins at 0."""

    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, *, thread_seconds: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__()
        self._selector = _NoSockets(self)
        self._now = 0.0
        self._steps_at_once = 0
        self._thread_seconds = thread_seconds

    def time(self) -> float:
        return self._now

    def move_on(self, timeout: float | None) -> None:
        """What waiting for sockets is elsewhere. `timeout` is None where nothing can end the wait."""
        if timeout is None:
            raise NothingWillHappen
        if timeout == 0:
            self._steps_at_once += 1
            if self._steps_at_once > MOST_STEPS_AT_ONCE:
                raise Spinning
            return
        self._steps_at_once = 0
        self._now = max(self._now, self._scheduled[0].when())

    def create_task(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        task = super().create_task(coro, **kwargs)
        context: Context | None = kwargs.get("context")
        owner = context.get(OWNER) if context is not None else OWNER.get()
        if owner is not None:
            owner.adopt(task)
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """The work of a dead owner is never done."""
        answer = self.create_future()
        owner = OWNER.get()

        def work() -> None:
            if owner is not None and not owner.alive:
                return
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 (as a thread pool does)
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(result)

        self.call_later(self._thread_seconds(), work)
        return answer

    def end(self) -> None:
        """Cancels what still runs, lets it finish, and closes the loop."""
        self._steps_at_once = 0
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: (len(task.get_name()), task.get_name()))
        for task in tasks:
            task.cancel()
        if tasks:
            self.run_until_complete(asyncio.wait(tasks, timeout=UNWIND_S))
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        """Nobody sleeps."""
