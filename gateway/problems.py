"""What HTTP says when something is refused: RFC 9457 problem documents, for every error there is.

    { "type": "about:blank", "title": …, "status": …, "detail": …, "reason": …, "request_id": …, variables…,
      "errors": [{ "path": …, "detail": … }, …] }

`reason` is for programs and does not change; `detail` is a sentence for people; `errors`
is there where what was sent is wrong in certain places, named by their JSON paths. One
table from reasons to statuses, exhaustive by test. Knows no route.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from learning.refusals import (
    DigestMismatch,
    DiscoError,
    InternalError,
    InvalidId,
    InvalidModel,
    InvalidPolicy,
    InvalidTask,
    WeightsNotFinite,
)
from rpc.logs import request_id

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_S = 1

STATUSES: dict[str, HTTPStatus] = {
    "TASK_NOT_FOUND": HTTPStatus.NOT_FOUND,
    "TASK_ALREADY_EXISTS": HTTPStatus.CONFLICT,
    "INVALID_TASK": HTTPStatus.BAD_REQUEST,
    "INVALID_MODEL": HTTPStatus.BAD_REQUEST,
    "MODEL_NOT_SENT": HTTPStatus.BAD_REQUEST,
    "INVALID_ID": HTTPStatus.BAD_REQUEST,
    "INVALID_POLICY": HTTPStatus.BAD_REQUEST,
    "WRONG_SCHEME": HTTPStatus.NOT_FOUND,
    "INVALID_WEIGHTS": HTTPStatus.BAD_REQUEST,
    "WEIGHTS_NOT_FINITE": HTTPStatus.BAD_REQUEST,
    "WEIGHTS_OUT_OF_BOUND": HTTPStatus.BAD_REQUEST,
    "DIGEST_MISMATCH": HTTPStatus.BAD_REQUEST,
    "ROUND_STALE": HTTPStatus.CONFLICT,
    "ROUND_AHEAD": HTTPStatus.CONFLICT,
    "DUPLICATE_CONTRIBUTION": HTTPStatus.CONFLICT,
    "WEIGHT_CAP_REACHED": HTTPStatus.CONFLICT,
    "NORM_TOO_LARGE": HTTPStatus.CONFLICT,
    "PRIVACY_BUDGET_SPENT": HTTPStatus.CONFLICT,
    "PRIVACY_NOT_ACCOUNTED": HTTPStatus.NOT_IMPLEMENTED,
    "TOO_LARGE": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "MALFORMED_MESSAGE": HTTPStatus.BAD_REQUEST,
    "VERSION_NOT_FOUND": HTTPStatus.NOT_FOUND,
    "NOT_IN_VERSION": HTTPStatus.NOT_FOUND,
    "PEER_NOT_CONNECTED": HTTPStatus.NOT_FOUND,
    "PEER_REPLACED": HTTPStatus.CONFLICT,
    "TASK_CREATION_DENIED": HTTPStatus.FORBIDDEN,
    "TASK_DELETED": HTTPStatus.CONFLICT,
    "TASK_CHANGED": HTTPStatus.PRECONDITION_FAILED,
    "TASK_FIELD_FIXED": HTTPStatus.CONFLICT,
    "QUOTA_EXCEEDED": HTTPStatus.INSUFFICIENT_STORAGE,
    "TOO_MANY_UPLOADS": HTTPStatus.TOO_MANY_REQUESTS,
    "STORAGE_FULL": HTTPStatus.INSUFFICIENT_STORAGE,
    "STORE_UNAVAILABLE": HTTPStatus.SERVICE_UNAVAILABLE,
    "SHUTDOWN": HTTPStatus.SERVICE_UNAVAILABLE,
    "SLOW_CONSUMER": HTTPStatus.REQUEST_TIMEOUT,
    "STREAM_STALLED": HTTPStatus.REQUEST_TIMEOUT,
    "NOT_HANDED_OVER": HTTPStatus.CONFLICT,
    "STORED_DATA_DAMAGED": HTTPStatus.INTERNAL_SERVER_ERROR,
    "INTERNAL": HTTPStatus.INTERNAL_SERVER_ERROR,
}

_log = structlog.stdlib.get_logger("gateway")


def problem(
    status: int,
    reason: str,
    detail: str,
    *,
    variables: dict[str, str] | None = None,
    errors: Sequence[tuple[str, str]] = (),
) -> JSONResponse:
    """One problem document; `errors` are pairs of a JSON path and what is wrong there."""
    document = {
        "type": "about:blank",
        "title": reason.replace("_", " ").capitalize(),
        "status": int(status),
        "detail": detail,
        "reason": reason,
        "request_id": request_id(),
    }
    retry_after = {
        HTTPStatus.SERVICE_UNAVAILABLE: str(RETRY_AFTER_S),
        HTTPStatus.TOO_MANY_REQUESTS: (variables or {}).get("seconds"),
    }.get(HTTPStatus(status))
    headers = {"Retry-After": retry_after} if retry_after else None
    listed = {"errors": [{"path": path, "detail": detail} for path, detail in errors]} if errors else {}
    return JSONResponse({**(variables or {}), **document, **listed}, status, headers, CONTENT_TYPE)


def problem_for(error: DiscoError) -> JSONResponse:
    """The problem that an error of ours is. What a service could not explain stays in the log."""
    if error.reason == InternalError.reason:
        _log.error("request.failed", error=str(error))
        return _internal_error()
    errors = _errors_of(error)
    return problem(STATUSES[error.reason], error.reason, str(error), variables=error.variables, errors=errors)


def _errors_of(error: DiscoError) -> Sequence[tuple[str, str]]:
    """What is wrong field by field, where that is known."""
    match error:
        case InvalidTask():
            return error.problems
        case InvalidModel():
            return (("model", error.variables["problem"]),)
        case InvalidPolicy():
            return ((error.variables["field"], error.variables["problem"]),)
        case InvalidId() if "path" in error.variables:  # of a document, not of the request's own path
            return ((error.variables["path"], str(error)),)
        case DigestMismatch():  # over HTTP only tasks announce one
            return (("digest", str(error)),)
        case WeightsNotFinite():  # those of a model that is uploaded; contributions do not come over HTTP
            return (("model", str(error)),)
        case _:
            return ()


def _internal_error() -> JSONResponse:
    error = InternalError(request_id=request_id())
    return problem(STATUSES[error.reason], error.reason, str(error))


def _methods_at(request: Request) -> list[str]:
    """Every method that the path takes. Of several routes at one path the error names the methods of one only."""
    routes = request.app.router.routes

    def is_taken(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in routes)

    taken = {method for method in ("GET", "POST", "PUT", "PATCH", "DELETE") if is_taken(method)}
    # What the edge answers everywhere: OPTIONS by itself, and HEAD like GET.
    return sorted(taken | {"OPTIONS"} | ({"HEAD"} if "GET" in taken else set()))


def answer_with_problems(app: FastAPI) -> None:
    """Makes every error that `app` meets a problem document."""

    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, DiscoError)
        return problem_for(error)

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        status = HTTPStatus(error.status_code)
        details = {
            HTTPStatus.NOT_FOUND: f"There is nothing at {request.url.path}. The routes are listed at /docs.",
            HTTPStatus.METHOD_NOT_ALLOWED: f"{request.method} is not possible here. The routes are listed at /docs.",
        }
        answer = problem(status, status.name, details.get(status, str(error.detail)))
        answer.headers.update(error.headers or {})
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            answer.headers["Allow"] = ", ".join(_methods_at(request))
        return answer

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "INVALID_REQUEST", f"The request is not valid: {faults}.")

    async def bug(_: Request, __: Exception) -> JSONResponse:
        # The exception goes on to the edge, which logs it.
        return _internal_error()

    app.add_exception_handler(Exception, bug)
    app.add_exception_handler(DiscoError, refused)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
