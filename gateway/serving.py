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
from gateway.task_sources.fetching import Fetcher
from gateway.task_sources.offers import Offers
from gateway.task_sources.task_folder import TaskFolder
from gateway.web_server import DRAIN_HTTP_S, DRAIN_SOCKETS_S, WebServer, allow_files, listen, new_server
from rpc.handover import opened
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
        handover = stack.enter_context(opened(settings.handover_dir))
        app = create_app(settings, clients, registry=registry, handover=handover, http=http)
        server = new_server(app, settings)
        metrics = metrics_endpoint(registry, host=settings.metrics_host, port=settings.gateway_metrics_port)
        try:
            await stack.enter_async_context(metrics)
        except OSError as error:
            raise CannotListen(f"{settings.metrics_host}:{settings.gateway_metrics_port}", str(error)) from None
        running = asyncio.create_task(server.serve(sockets=[listening]))
        host, port = listening.getsockname()[:2]
        await stack.enter_async_context(_watching(settings, clients))
        _log.info(
            "gateway.started",
            address=f"{host}:{port}",
            task_creation=settings.effective_task_creation,
            who_may_create=settings.who_may_create,
        )
        try:
            yield running
        finally:
            await _drain(app, server)
            await running


@asynccontextmanager
async def _watching(settings: GatewaySettings, clients: ServiceClients) -> AsyncIterator[None]:
    """Keeps the tasks of a folder while the block runs, where there is one."""
    if settings.tasks_folder is None:
        yield
        return
    offers = Offers(Fetcher(settings.networks_to_fetch_from), limit_bytes=settings.max_message_bytes)
    folder = TaskFolder(settings.tasks_folder, task_service=clients.task_service(), offers=offers)
    watching = asyncio.create_task(folder.watch(), name="task folder")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait({watching})


async def _drain(app: Gateway, server: WebServer) -> None:
    _log.info("gateway.draining", sockets_s=DRAIN_SOCKETS_S, requests_s=DRAIN_HTTP_S)
    server.stop_accepting()
    try:
        async with asyncio.timeout(DRAIN_SOCKETS_S):
            await app.drain()
    except TimeoutError:
        _log.warning("gateway.drain_cut_short")
    server.should_exit = True
