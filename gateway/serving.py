"""A gateway while a block runs: channels, application, listening socket, server, metrics; drained when the block ends.

Draining: no new connections; sockets are closed with 4000 (come back) and their
contributions settled, within DRAIN_SOCKETS_S; requests in flight finish, within
DRAIN_HTTP_S. Knows no signal and no process: whoever runs the block decides when it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from fastapi import FastAPI

from gateway.app import Gateway, create_app
from gateway.service_clients import ServiceClients
from gateway.settings import GatewaySettings
from gateway.web_server import DRAIN_HTTP_S, DRAIN_SOCKETS_S, WebServer, allow_files, listen, new_server
from rpc.metrics import metrics_endpoint, new_registry
from rpc.server import CannotListen

_log = structlog.stdlib.get_logger("gateway")


@asynccontextmanager
async def serving(settings: GatewaySettings, *, http: FastAPI | None = None) -> AsyncIterator[asyncio.Task[None]]:
    """Serves, with the routes of `http` beside its own; yields a task that ends only if the server does by itself.

    Raises CannotListen.
    """
    allow_files(settings.max_sockets)
    registry = new_registry()
    async with AsyncExitStack() as stack:
        listening = stack.enter_context(listen(settings.gateway_host, settings.gateway_port))
        clients = ServiceClients.open(settings)
        stack.push_async_callback(clients.close)
        app = create_app(settings, clients, registry=registry, http=http)
        server = new_server(app, settings)
        metrics = metrics_endpoint(registry, host=settings.metrics_host, port=settings.gateway_metrics_port)
        try:
            await stack.enter_async_context(metrics)
        except OSError as error:
            raise CannotListen(f"{settings.metrics_host}:{settings.gateway_metrics_port}", str(error)) from None
        running = asyncio.create_task(server.serve(sockets=[listening]))
        host, port = listening.getsockname()[:2]
        _log.info("gateway.started", address=f"{host}:{port}", task_creation=settings.effective_task_creation)
        try:
            yield running
        finally:
            await _drain(app, server)
            await running


async def _drain(app: Gateway, server: WebServer) -> None:
    _log.info("gateway.draining", sockets_s=DRAIN_SOCKETS_S, requests_s=DRAIN_HTTP_S)
    server.stop_accepting()
    try:
        async with asyncio.timeout(DRAIN_SOCKETS_S):
            await app.drain()
    except TimeoutError:
        _log.warning("gateway.drain_cut_short")
    server.should_exit = True
