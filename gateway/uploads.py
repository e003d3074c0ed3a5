"""Reads bodies of requests from strangers: within the size limit, without waiting for ever, and not too deep.

Knows bytes and JSON; nothing of tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec
from starlette.requests import ClientDisconnect, Request

from learning.refusals import MalformedMessage, StreamStalled, TooLarge

IDLE_TIMEOUT_S = 30.0
MAX_DEPTH = 64


async def body_chunks(request: Request, *, limit: int) -> AsyncGenerator[bytes, None]:
    """The body as it comes, up to `limit` bytes. Raises TooLarge, StreamStalled, MalformedMessage."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise TooLarge(limit_bytes=limit)
    received = 0
    chunks = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise StreamStalled(seconds=f"{IDLE_TIMEOUT_S:g}") from None
        except ClientDisconnect:
            raise MalformedMessage(problem="the body ended before its announced end") from None
        if chunk is None:
            return
        received += len(chunk)
        if received > limit:
            raise TooLarge(limit_bytes=limit)
        yield chunk


async def read_body(request: Request, *, limit: int) -> bytearray:
    """The body, which is never held beyond `limit` bytes. Raises TooLarge, StreamStalled, MalformedMessage."""
    body = bytearray()
    async for chunk in body_chunks(request, limit=limit):
        body += chunk
    return body


def parse_json(body: bytes | bytearray) -> object:
    """The JSON document in a body. Raises MalformedMessage, also for one that is nested too deep to be handled."""
    try:
        document = msgspec.json.decode(body)
    except RecursionError:
        raise MalformedMessage(problem="the JSON is nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedMessage(problem=f"the body is not JSON: {error}") from None
    if _is_deeper(document, MAX_DEPTH):
        raise MalformedMessage(problem=f"the JSON is nested deeper than {MAX_DEPTH} levels")
    return document


def _is_deeper(document: object, levels: int) -> bool:
    """Breadth first, level by level, so that depth costs no stack."""
    level = [document]
    for _ in range(levels):
        level = [
            child
            for value in level
            if isinstance(value, dict | list)
            for child in (value.values() if isinstance(value, dict) else value)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
