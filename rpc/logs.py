"""Logs: events with fields, one line each, from us and from the libraries alike.

`configure` is called once, by `__main__`. Lines of the standard library's loggers
(grpc, uvicorn, redis) go the same way. Never a weight, never a token: bytes are
logged as their length, and fields that are named like secrets are blanked.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

SECRET_WORDS = ("token", "authorization", "password", "secret")
_LIBRARIES_WITH_HANDLERS = ("uvicorn", "uvicorn.error", "uvicorn.access")


def configure(
    process_name: str,
    *,
    level: str = "info",
    format: Literal["auto", "console", "json"] = "auto",
    stream: TextIO | None = None,
) -> None:
    """Sends all logs from `level` on to `stream` (standard error), every line with the process' name."""
    stream = stream or sys.stderr
    console = stream.isatty() if format == "auto" else format == "console"
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(process_name),
        blank_secrets,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(console)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _LIBRARIES_WITH_HANDLERS:
        library = logging.getLogger(name)
        library.handlers, library.propagate = [], True


def request_id() -> str:
    """The id that was bound to the request that is being answered."""
    return str(structlog.contextvars.get_contextvars().get("request_id", "unknown"))


def blank_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Blanks what is named like a secret and replaces bytes by their number: weights and models are never logged."""
    for name, value in event.items():
        if any(word in name.lower() for word in SECRET_WORDS):
            event[name] = "…"
        elif isinstance(value, bytes | bytearray | memoryview):
            event[name] = f"{len(value)} bytes"
    return event


def _named(process_name: str) -> Processor:
    def add_process_name(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["process"] = process_name
        return event

    return add_process_name


def _rendering(console: bool) -> list[Processor]:
    """Tracebacks without local variables: those hold weights and tokens."""
    if console:
        return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    without_locals = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [structlog.processors.ExceptionRenderer(without_locals), structlog.processors.JSONRenderer(default=str)]
