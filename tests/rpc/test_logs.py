"""Log lines: ours and the libraries', and what must never be in them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from rpc.logs import configure


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_with_its_fields_and_the_process() -> None:
    stream = io.StringIO()
    configure("aggregator", stream=stream)
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.stdlib.get_logger("rounds").info("round.announced", task_id="titanic", number=3)
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "round.announced",
        "task_id": "titanic",
        "number": 3,
        "request_id": "r1",
        "process": "aggregator",
        "level": "info",
        "logger": "rounds",
    }


def test_lines_of_the_standard_library_come_out_the_same_way() -> None:
    stream = io.StringIO()
    configure("gateway", stream=stream)
    logging.getLogger("uvicorn.error").addHandler(logging.StreamHandler(stream))
    configure("gateway", stream=stream)  # takes the handlers away that uvicorn brought
    logging.getLogger("uvicorn.error").warning("slow %s", "client")
    logging.getLogger("grpc").error("broken")
    assert [(line["event"], line["level"], line["logger"], line["process"]) for line in lines(stream)] == [
        ("slow client", "warning", "uvicorn.error", "gateway"),
        ("broken", "error", "grpc", "gateway"),
    ]


def test_lines_below_the_level_are_left_out() -> None:
    stream = io.StringIO()
    configure("gateway", level="warning", stream=stream)
    structlog.stdlib.get_logger("a").info("quiet")
    logging.getLogger("b").info("quiet")
    structlog.stdlib.get_logger("a").warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


@pytest.mark.parametrize(
    ("format", "stream", "is_json"),
    [
        ("auto", io.StringIO(), True),
        ("auto", Terminal(), False),
        ("console", io.StringIO(), False),
        ("json", Terminal(), True),
    ],
)
def test_the_format_follows_the_setting_or_the_terminal(format: Any, stream: io.StringIO, is_json: bool) -> None:
    configure("gateway", format=format, stream=stream)
    structlog.stdlib.get_logger("a").info("event.happened")
    assert stream.getvalue().startswith("{") is is_json
    assert "event.happened" in stream.getvalue()


@pytest.mark.parametrize("format", ["json", "console"])
def test_neither_tokens_nor_weights_are_logged(format: Any) -> None:
    stream = io.StringIO()
    configure("gateway", format=format, stream=stream)
    structlog.stdlib.get_logger("a").info(
        "call", session_token="hush1", Authorization="Bearer hush2", body=b"hush3", weights=memoryview(b"hush4")
    )
    logging.getLogger("library").warning("foreign", extra={"service_token": "hush5"})
    assert "hush" not in stream.getvalue()
    assert "5 bytes" in stream.getvalue()


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_traceback_shows_where_and_no_local_variables(format: Any) -> None:
    stream = io.StringIO()
    configure("gateway", format=format, stream=stream)

    def failing() -> None:
        local_variable = "hush"
        raise ValueError(f"length {len(local_variable)}")

    try:
        failing()
    except ValueError:
        structlog.stdlib.get_logger("a").exception("it.failed")
    text = stream.getvalue()
    assert "failing" in text
    assert "length 4" in text
    assert '"hush"' not in text.replace('local_variable = "hush"', "")
    assert "'hush'" not in text


def test_configuring_twice_does_not_double_the_lines() -> None:
    stream = io.StringIO()
    configure("gateway", stream=stream)
    configure("gateway", stream=stream)
    structlog.stdlib.get_logger("a").info("once")
    assert len(lines(stream)) == 1
