"""Starts processes, watches them, starts again what died, and stops them in an order.

    start ──▶ running ──▶ died ──(back-off)──▶ running …
                 └──stop──▶ SIGTERM ──(grace)──▶ SIGKILL

A process that ends before it was ever healthy is not started again: whoever starts
it is told why. Knows no particular process and prints through a `Screen` alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from disco_server import bound
from disco_server.cannot_start import CannotStart
from disco_server.screen import Screen

START_S = 60.0
POLL_S = 0.05
TAIL_LINES = 20
LONGEST_LINE = 64 * 1024
LAST_WORDS_S = 1.0


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """A process to start and keep."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    is_healthy: Callable[[], Awaitable[bool]]
    """Whether it answers; never raises."""
    grace_s: float = 15.0
    """Between SIGTERM and SIGKILL."""
    shown: bool = True
    """Whether its lines go to the screen."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a process that died stays down: longer with every death in a row, up to a limit."""

    first_s: float = 0.2
    most_s: float = 10.0
    forgiven_after_s: float = 60.0
    """A process that ran for this long starts with a clean record."""

    def delay(self, deaths_before: int) -> float:
        """Seconds to wait after a death that has so many before it."""
        return min(self.first_s * 2.0 ** min(deaths_before, 64), self.most_s)


class Supervisor:
    """Keeps groups of processes alive; each group is stopped before the ones that were started earlier."""

    def __init__(self, screen: Screen, *, backoff: Backoff | None = None) -> None:
        self._screen = screen
        self._backoff = backoff or Backoff()
        self._groups: list[list[_Process]] = []

    async def start(self, *plans: ProcessPlan) -> None:
        """Starts a group and returns when all of it is healthy. Raises CannotStart."""
        await self.start_together(plans)

    async def start_together(self, *groups: Sequence[ProcessPlan]) -> None:
        """Starts groups side by side, which are stopped one after the other. Raises CannotStart."""
        started = [[_Process(plan, screen=self._screen, backoff=self._backoff) for plan in plans] for plans in groups]
        self._groups += started
        try:
            async with asyncio.TaskGroup() as starting:
                for group in started:
                    for process in group:
                        starting.create_task(process.start())
        except ExceptionGroup as several:
            # One reason is enough: the others are mostly its consequences.
            if reasons := several.subgroup(CannotStart):
                raise reasons.exceptions[0] from None
            raise

    async def stop(self) -> None:
        """Stops everything, the newest group first."""
        while self._groups:
            group = self._groups[-1]
            await asyncio.gather(*(process.stop() for process in group))
            self._groups.pop()

    def kill(self) -> None:
        """Ends everything at once."""
        for group in self._groups:
            for process in group:
                process.kill()


class _Process:
    """One process under supervision."""

    def __init__(self, plan: ProcessPlan, *, screen: Screen, backoff: Backoff) -> None:
        self._plan = plan
        self._screen = screen
        self._backoff = backoff
        self._deaths = 0
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._child: asyncio.subprocess.Process | None = None
        self._pump: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises CannotStart."""
        child = await self._spawn()
        ended = asyncio.create_task(child.wait())
        try:
            async with asyncio.timeout(START_S):
                while not await self._plan.is_healthy():
                    await asyncio.wait({ended}, timeout=POLL_S)
                    if ended.done():
                        await self._last_words()
                        reason = _reason(ended.result())
                        raise CannotStart(f"{self._plan.name} did not start: it {reason}.{self._said()}")
        except TimeoutError:
            raise CannotStart(
                f"{self._plan.name} did not start: it gives no sign of health after {START_S:g} s.{self._said()}"
            ) from None
        finally:
            ended.cancel()
        self._watch = asyncio.create_task(self._keep_alive(), name=f"watch {self._plan.name}")

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch})
        child = self._child
        if child is None:
            return
        if child.returncode is None:
            self._screen.say(f"Stopping {self._plan.name}.")
            child.terminate()
        try:
            async with asyncio.timeout(self._plan.grace_s):
                await child.wait()
        except TimeoutError:
            self._screen.say(f"{self._plan.name} is still there after {self._plan.grace_s:g} s and is killed.")
            self.kill()
            await child.wait()
        await self._last_words()

    def kill(self) -> None:
        if self._watch is not None:
            self._watch.cancel()  # else it would be started again
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.killpg(self._child.pid, signal.SIGKILL)  # it leads a group of its own: whatever it started goes, too

    async def _spawn(self) -> asyncio.subprocess.Process:
        self._started_at = time.monotonic()
        self._child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(Path(bound.__file__)),
            str(os.getpid()),
            *self._plan.command,
            env=dict(self._plan.environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the launcher alone, which then stops all in order
        )
        self._pump = asyncio.create_task(self._pump_lines(self._child), name=f"lines of {self._plan.name}")
        return self._child

    async def _keep_alive(self) -> None:
        while True:
            assert self._child is not None, "only a process that was started is kept alive"
            code = await self._child.wait()
            await self._last_words()
            if time.monotonic() - self._started_at >= self._backoff.forgiven_after_s:
                self._deaths = 0
            said = self._said() if code > 0 and not self._plan.shown else ""
            await self._pause(_reason(code), said)
            while not await self._spawned_again():
                pass

    async def _spawned_again(self) -> bool:
        try:
            await self._spawn()
        except OSError as error:  # no memory or no process numbers left, perhaps for the moment only
            await self._pause(f"cannot be started ({error.strerror})", "")
            return False
        return True

    async def _pause(self, what: str, said: str) -> None:
        delay = self._backoff.delay(self._deaths)
        self._deaths += 1
        self._screen.say(f"{self._plan.name} {what}; it is started again in {delay:g} s.{said}")
        await asyncio.sleep(delay)

    async def _pump_lines(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdout is not None, "its output was asked for"
        rest = b""
        while chunk := await child.stdout.read(LONGEST_LINE):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._show(line)
            if len(rest) > LONGEST_LINE:  # no line of ours is that long; whatever it is, it is not kept in memory
                self._show(rest)
                rest = b""
        if rest:
            self._show(rest)

    def _show(self, raw: bytes) -> None:
        line = raw.decode(errors="replace").rstrip()
        if line:
            self._tail.append(line)
            if self._plan.shown:
                self._screen.line(self._plan.name, line)

    async def _last_words(self) -> None:
        """Waits for the end of its output; not for long, since a child of its own may hold the pipe open."""
        if self._pump is not None:
            await asyncio.wait({self._pump}, timeout=LAST_WORDS_S)
            self._pump.cancel()

    def _said(self) -> str:
        return f" Its last words: {self._tail[-1]}" if self._tail else ""


def _reason(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    names = {int(one): one.name for one in signal.Signals}
    return f"was ended by {names.get(-code, f'signal {-code}')}"
