"""What happens to every HTTP request before and after its route.

    request id      taken from X-Request-Id or made; in every log line, every call, every answer
    dialect         negotiated; the path goes on without prefix and trailing slash
    CORS            every origin may read every answer; preflights are answered here (protocol section 7)
    HEAD            is GET without its body
    what escapes    is logged, once

Knows no route but the names that paths begin with.
"""

from __future__ import annotations

import re
import uuid
from http import HTTPStatus

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.dialect_choice import DialectChoice
from gateway.metrics import GatewayMetrics

METHODS = "GET,HEAD,PUT,PATCH,POST,DELETE"
_CASELESS = re.compile(r"/(tasks|tfjs|feai|deai|federated|decentralized)(?=/|$)", re.IGNORECASE)
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")

_log = structlog.stdlib.get_logger("gateway")


def request_id_of(headers: Headers) -> str:
    """The id the caller gave the request, if it is one; else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


class HttpEdge:
    """Wraps the application for HTTP; sockets and the lifespan pass it by."""

    def __init__(self, app: ASGIApp, *, choice: DialectChoice, metrics: GatewayMetrics) -> None:
        self._app = app
        self._choice = choice
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = request_id_of(headers)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            answering = _Answering(send, request_id)
            await self._answer(scope, receive, answering, headers)
        self._metrics.request(scope["method"], answering.status)

    async def _answer(self, scope: Scope, receive: Receive, answering: _Answering, headers: Headers) -> None:
        if scope["method"] == "OPTIONS":
            await _preflight(headers)(scope, receive, answering.send)
            return
        try:
            await self._app(await self._negotiated(scope, headers), receive, answering.send)
        # The outermost interceptor: what a route did not foresee has been answered below (`gateway.problems`).
        except Exception:  # noqa: BLE001
            _log.exception("request.failed", method=scope["method"], path=scope["path"])

    async def _negotiated(self, scope: Scope, headers: Headers) -> Scope:
        path = _CASELESS.sub(lambda name: name[0].lower(), scope["path"], count=1)
        negotiated = await self._choice.of(scope, headers, path=path)
        path = negotiated.path.rstrip("/") or "/"
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        state = {**scope.get("state", {}), "negotiated": negotiated, "is_head": scope["method"] == "HEAD"}
        return {**scope, "path": path, "raw_path": path.encode(), "method": method, "state": state}


class _Answering:
    """Adds what every answer has, and remembers its status (0: none was sent)."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = "*"
            headers["Access-Control-Expose-Headers"] = "ETag, X-Request-Id, Retry-After, Content-Range, Accept-Ranges"
            headers["X-Request-Id"] = self.request_id
        await self._send(message)


def _preflight(headers: Headers) -> Response:
    answer = Response(status_code=HTTPStatus.NO_CONTENT, headers={"Access-Control-Allow-Methods": METHODS})
    if wanted := headers.get("access-control-request-headers"):
        answer.headers["Access-Control-Allow-Headers"] = wanted
        answer.headers["Vary"] = "Access-Control-Request-Headers"
    return answer
