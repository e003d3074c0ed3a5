"""Runs a launcher until it is told to stop: the first signal stops everything in order, another one at once."""

from __future__ import annotations

import asyncio
import signal

from disco_server.launcher import Launcher
from disco_server.screen import Screen

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_SIGNAL_S = 0.5
"""Programs that pass a signal on often send it to the group as well; that is one wish, not two."""


async def run_until_signal(launcher: Launcher, screen: Screen) -> None:
    """Returns when everything has ended. Raises CannotStart."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    first_at = loop.time()

    def asked() -> None:
        nonlocal first_at
        if not stop.is_set():
            first_at = loop.time()
            stop.set()
        elif loop.time() - first_at > SAME_SIGNAL_S:
            screen.say("Not waiting any longer.")
            launcher.kill()

    for number in SIGNALS:
        loop.add_signal_handler(number, asked)
    try:
        await launcher.run(stop)
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
