"""Starts a gateway: settings, logs, signals. SIGTERM and SIGINT drain it (`gateway.serving` says how)."""

from __future__ import annotations

import asyncio
import logging
import signal

import structlog

from gateway.serving import serving
from gateway.settings import GatewaySettings
from rpc import logs
from rpc.server import run
from rpc.settings import load

_log = structlog.stdlib.get_logger("gateway")


async def main(settings: GatewaySettings) -> None:
    """Serves until SIGTERM or SIGINT. Raises CannotListen."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with serving(settings) as ended:
        await asyncio.wait({ended, asyncio.ensure_future(stopping.wait())}, return_when="FIRST_COMPLETED")
    _log.info("gateway.stopped")


if __name__ == "__main__":
    gateway_settings = load(GatewaySettings)
    logs.configure("gateway", level=gateway_settings.log_level, format=gateway_settings.log_format)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it would log every socket once more
    run(main(gateway_settings))
