"""What surrounds every call that a server answers: errors, request id, metrics, and the end of endless streams.

    DiscoError                       its status with details (`rpc.status`)
    anything else                    INTERNAL, logged once with the request id
    cancellation, context.abort      passed through untouched

An answer to a stream that is still being sent waits a moment for its end. All four
kinds of methods are wrapped, whether their handlers are coroutines or
asynchronous generators. Knows no method of ours.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import suppress
from typing import Any, NoReturn

import grpc
import structlog

from learning.refusals import DiscoError, Fault, InternalError, ShuttingDown
from rpc import logs
from rpc.handlers import Behaviour, Context, Continuation, Handler, behaviour_of, with_behaviour
from rpc.metrics import CallMetrics
from rpc.status import DETAILS_KEY, STATUS_BY_REASON, to_rich_status

READ_OUT_S = 1.0
REQUEST_ID_KEY = "x-request-id"
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_log = structlog.stdlib.get_logger("rpc")


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every call; see the module. `endless` are the methods whose streams end only with the process."""

    def __init__(
        self, metrics: CallMetrics, endless: Collection[str] = (), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._metrics = metrics
        self._endless = frozenset(endless)
        self._clock = clock
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
        self._endless_calls: set[asyncio.Task[Any]] = set()
        self._stopping = False

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Handler | None:
        handler = await continuation(details)
        if handler is None:
            return None  # no such method: gRPC answers UNIMPLEMENTED
        # A method has the same handler at every call, unless an interceptor behind this one refuses the call.
        inner, wrapped = self._wrapped.get(details.method, (None, None))
        if wrapped is None or inner is not handler:
            wrapped = self._wrap(handler, details.method)
            self._wrapped[details.method] = handler, wrapped
        return wrapped

    def _wrap(self, handler: Handler, method: str) -> Handler:
        behaviour = behaviour_of(handler)
        if handler.stream_unary is not None:
            behaviour = _reading_out(behaviour)
        return with_behaviour(handler, self._surrounded(behaviour, method))

    def end_streams(self) -> None:
        """Ends the endless streams with SHUTDOWN, those that are open and those that are still to come."""
        self._stopping = True
        for call in self._endless_calls:
            call.cancel()

    def _surrounded(self, behaviour: Behaviour, method: str) -> Behaviour:
        answer = self._until_stopped(behaviour) if method in self._endless else behaviour

        async def surrounded(request: Any, context: Context) -> Any:
            started = self._clock()
            request_id = _request_id(context)
            code = "CANCELLED"
            try:
                with structlog.contextvars.bound_contextvars(request_id=request_id):
                    response = await self._answered(answer, request, context, method=method)
                code = _code_name(context)
                return response
            except grpc.aio.AbortError:
                code = _code_name(context)
                raise
            finally:
                self._metrics.answered(method, code=code, seconds=self._clock() - started)

        return surrounded

    async def _answered(self, answer: Behaviour, request: Any, context: Context, *, method: str) -> Any:
        """Ends in a response, in an abort, or in a cancellation."""
        try:
            return await answer(request, context)
        except (grpc.aio.AbortError, grpc.aio.InternalError):
            raise  # the second: a message could not be written, as the caller is gone
        except Exception as error:  # noqa: BLE001 (the interceptor: whatever it is must become an answer)
            if not isinstance(error, DiscoError) and _code_name(context) == "UNIMPLEMENTED":
                # A method that is left to the generated servicer, which raises NotImplementedError.
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not implemented here.")
            await _abort(context, answerable(error, method=method))

    def _until_stopped(self, behaviour: Behaviour) -> Behaviour:
        async def until_stopped(request: Any, context: Context) -> Any:
            if self._stopping:
                raise ShuttingDown
            call = asyncio.current_task()
            assert call is not None, "gRPC runs every call in a task"
            self._endless_calls.add(call)
            try:
                return await behaviour(request, context)
            except asyncio.CancelledError:
                if not self._stopping:
                    raise
                call.uncancel()
                raise ShuttingDown from None
            finally:
                self._endless_calls.discard(call)

        return until_stopped


def answerable(error: Exception, *, method: str) -> DiscoError:
    """What to answer for an error of a method, or of one of several things that it does: logged where it must be."""
    if not isinstance(error, DiscoError):
        _log.error("rpc.failed", method=method, exc_info=error)
        return InternalError(request_id=logs.request_id())
    if isinstance(error, Fault) and not isinstance(error, ShuttingDown):
        _log.warning("rpc.fault", method=method, reason=error.reason, sentence=str(error))
    return error


def _reading_out(behaviour: Behaviour) -> Behaviour:
    """Lets the caller finish sending before an early answer goes out, for READ_OUT_S at most.

    An answer closes the stream. A client that is still sending then sees its sending
    fail, and grpc.aio may report that instead of the answer: a receipt would be lost.
    """

    async def reading_out(requests: Any, context: Context) -> Any:
        try:
            response = await behaviour(requests, context)
        except DiscoError:
            await _read_out(requests)
            raise
        await _read_out(requests)
        return response

    return reading_out


async def _read_out(requests: AsyncIterator[Any]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(READ_OUT_S):
            async for _ in requests:
                pass


async def _abort(context: Context, error: DiscoError) -> NoReturn:
    status = to_rich_status(error)
    await context.abort(STATUS_BY_REASON[error.reason], status.message, ((DETAILS_KEY, status.SerializeToString()),))


def _request_id(context: Context) -> str:
    """The caller's, so that one id runs through all processes; a new one where there is none, or no proper one."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex


def _code_name(context: Context) -> str:
    """Name of the status a handler set; gRPC keeps it as a number, and as 0 or None where none was set."""
    code: Any = context.code()
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code
    return _NAMES[number or 0]
