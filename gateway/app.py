"""The gateway's application: every route, and what stands behind it. Opens nothing and listens nowhere."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.dialect_choice import DialectChoice
from gateway.greetings import greeting
from gateway.http_bodies import Bodies
from gateway.http_edge import HttpEdge
from gateway.http_history import HistoryRoutes
from gateway.http_task_changes import TaskChangeRoutes
from gateway.http_tasks import TaskRoutes
from gateway.hub import Hub
from gateway.metrics import GatewayMetrics
from gateway.models import Models
from gateway.problems import answer_with_problems, problem
from gateway.service_clients import ServiceClients
from gateway.settings import GatewaySettings
from gateway.submitting import Submitting
from gateway.task_directory import TaskDirectory
from gateway.task_permission import TaskPermission
from gateway.versions import Versions
from gateway.websocket import WebSocketEndpoint
from rpc.handover import Handover

GREETED_PATHS = ("/", "/feai", "/deai", "/federated", "/decentralized")
DESCRIPTION = (
    "Federated and decentralized learning for Disco clients. Sockets are at /feai/{task}/{client} and /deai/{task}."
)


class Gateway:
    """One ASGI application. Call `drain` before it is stopped."""

    def __init__(self, http: ASGIApp, sockets: WebSocketEndpoint, lifespan: ASGIApp, readiness: Readiness) -> None:
        self._http = http
        self._sockets = sockets
        self._lifespan = lifespan
        self._readiness = readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Sockets do not pass through the layers that HTTP needs: every frame would pay for them.
        applications: dict[str, ASGIApp] = {"http": self._http, "websocket": self._sockets, "lifespan": self._lifespan}
        await applications[scope["type"]](scope, receive, send)

    async def drain(self) -> None:
        """Says that the gateway is not ready any more, and closes every socket."""
        self._readiness.draining = True
        await self._sockets.drain()


class Readiness:
    """Whether the gateway is of use to anybody: all services answer, and it is not stopping."""

    def __init__(self, clients: ServiceClients) -> None:
        self._clients = clients
        self.draining = False

    async def answer(self) -> Response:
        """Answers 200 while every service serves, else 503."""
        if self.draining:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "SHUTDOWN", "This gateway is stopping. Try another one.")
        services = await self._clients.health()
        away = [name for name, serves in services.items() if not serves]
        if away:
            detail = f"Not reachable at the moment: {', '.join(away)}."
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "STORE_UNAVAILABLE", detail)
        return JSONResponse({"ready": True, "services": services})


def new_http_app() -> FastAPI:
    """The part of the gateway that may be given more routes and middleware before `create_app` completes it."""
    http = FastAPI(title="Disco", description=DESCRIPTION, version="1", redirect_slashes=False, redoc_url=None)
    answer_with_problems(http)
    return http


def create_app(
    settings: GatewaySettings,
    clients: ServiceClients,
    *,
    registry: CollectorRegistry,
    handover: Handover | None = None,
    http: FastAPI | None = None,
) -> Gateway:
    """The gateway over `clients` and `handover`, which stay the caller's to close.

    Routes that `http` has already come after those that are documented, and before the greetings of bare paths.
    """
    metrics = GatewayMetrics(registry)
    directory = TaskDirectory(clients.task_service(), clock=time.monotonic)
    submitting = Submitting(clients.aggregator(), handover, clock=time.monotonic)
    versions = Versions(clients.aggregator(), handover, limit_bytes=settings.max_message_bytes, clock=time.monotonic)
    hub = Hub(clients.aggregator(), brought=versions.bring, takes_handover=handover is not None)
    models = Models(clients.task_service(), limit_bytes=settings.max_message_bytes)
    bodies = Bodies(max_bytes=settings.max_message_bytes)
    readiness = Readiness(clients)
    http = http or new_http_app()
    added = http.router.routes[:]
    del http.router.routes[:]
    _close_with(http, hub)
    permission = TaskPermission(settings, clock=time.monotonic)
    tasks = TaskRoutes(
        settings,
        permission=permission,
        task_service=clients.task_service(),
        directory=directory,
        models=models,
        bodies=bodies,
    )
    changes = TaskChangeRoutes(permission, task_service=clients.task_service(), directory=directory)
    http.include_router(HistoryRoutes(clients.aggregator(), clients.signaling(), bodies=bodies).router())
    http.include_router(tasks.router())
    http.include_router(changes.router())
    http.add_api_route("/healthz", _alive, methods=["GET"], tags=["health"], summary="Whether the process lives")
    http.add_api_route(
        "/readyz", readiness.answer, methods=["GET"], tags=["health"], summary="Whether every service answers"
    )
    http.router.routes.extend(added)
    for path in GREETED_PATHS:
        http.add_api_route(path, _greet, methods=["GET"], include_in_schema=False)
    choice = DialectChoice(settings, directory=directory, clock=time.monotonic)
    edge = HttpEdge(http, choice=choice, metrics=metrics)
    sockets = WebSocketEndpoint(
        settings,
        clients,
        choice=choice,
        directory=directory,
        hub=hub,
        submitting=submitting,
        versions=versions,
        metrics=metrics,
    )
    return Gateway(edge, sockets, cast(ASGIApp, http), readiness)


def _close_with(http: FastAPI, hub: Hub) -> None:
    """Closes the hub at the end of the lifespan, which may be somebody else's by now."""
    inner = http.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with inner(app) as state:
            yield state
        hub.close()

    http.router.lifespan_context = lifespan


async def _alive() -> Response:
    """Answers 200 as long as the process can answer."""
    return JSONResponse({"alive": True})


async def _greet(request: Request) -> Response:
    negotiated = request.state.negotiated
    certain = negotiated.rule in ("prefix", "hint", "origin")
    text = greeting(negotiated.dialect if certain else "", request.url.path)
    if text is None:
        return problem(HTTPStatus.NOT_FOUND, "NOT_FOUND", f"There is nothing at {request.url.path}.")
    return PlainTextResponse(text, media_type="text/html")
