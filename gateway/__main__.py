"""Starts a gateway: settings, channels, application, server. The only file here that puts these together.

On SIGTERM or SIGINT: no new connections; sockets are closed with 4000 (come back)
and their contributions settled, within DRAIN_SOCKETS_S; requests in flight finish,
within DRAIN_HTTP_S.
"""

from __future__ import annotations

import asyncio
import logging
import signal

import structlog

from gateway.app import Gateway, create_app
from gateway.service_clients import ServiceClients
from gateway.settings import GatewaySettings
from gateway.web_server import DRAIN_HTTP_S, DRAIN_SOCKETS_S, WebServer, allow_files, listen, new_server
from rpc import logs
from rpc.metrics import metrics_endpoint, new_registry
from rpc.server import CannotListen, run
from rpc.settings import load

_log = structlog.stdlib.get_logger("gateway")


async def main(settings: GatewaySettings) -> None:
    """Serves until SIGTERM or SIGINT. Raises CannotListen."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    allow_files(settings.max_sockets)
    with listen(settings.gateway_host, settings.gateway_port) as listening:
        registry = new_registry()
        clients = ServiceClients.open(settings)
        app = create_app(settings, clients, registry=registry)
        server = new_server(app, settings)
        try:
            async with metrics_endpoint(registry, host=settings.metrics_host, port=settings.gateway_metrics_port):
                serving = asyncio.create_task(server.serve(sockets=[listening]))
                host, port = listening.getsockname()[:2]
                _log.info("gateway.started", address=f"{host}:{port}", task_creation=settings.effective_task_creation)
                await asyncio.wait({serving, asyncio.ensure_future(stopping.wait())}, return_when="FIRST_COMPLETED")
                await _drain(app, server)
                await serving
        except OSError as error:
            raise CannotListen(f"{settings.metrics_host}:{settings.gateway_metrics_port}", str(error)) from None
        finally:
            await clients.close()
    _log.info("gateway.stopped")


async def _drain(app: Gateway, server: WebServer) -> None:
    _log.info("gateway.draining", sockets_s=DRAIN_SOCKETS_S, requests_s=DRAIN_HTTP_S)
    server.stop_accepting()
    try:
        async with asyncio.timeout(DRAIN_SOCKETS_S):
            await app.drain()
    except TimeoutError:
        _log.warning("gateway.drain_cut_short")
    server.should_exit = True


if __name__ == "__main__":
    gateway_settings = load(GatewaySettings)
    logs.configure("gateway", level=gateway_settings.log_level, format=gateway_settings.log_format)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it would log every socket once more
    run(main(gateway_settings))
