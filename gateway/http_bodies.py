"""Answers with bodies that have an entity tag: conditional, in parts, compressed (RFC 9110).

    If-None-Match     304 where the client has this very body
    Range, If-Range   one range of bytes: 206, or 416; several at once are answered with the whole
    Accept-Encoding   gzip, for JSON and arrays of byte numbers, which shrink by it; float32 numbers do not

A body is held whole, or streamed from where it lies. Knows nothing of what a body says.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from gateway.body_cache import BodyCache
from gateway.problems import problem
from rpc.off_loop import off_loop

FRESH = "no-cache"
FOR_GOOD = "public, max-age=31536000, immutable"
COMPRESSED_FROM_BYTES = 1 << 10
COMPRESSED_TO_BYTES = 64 << 20
WORTH = 0.9
"""What gzip leaves of a body must be less than this part of it."""
_LEVEL = 1
"""Of gzip: 100 MB/s for an array of byte numbers, of which 41 % stay. Level 6 takes twelve times as long for 35 %."""
_GZIP = 31
"""How zlib is asked for gzip's header and trailer."""
_ENTRY_BYTES = 1 << 10
"""What an entry of the cache takes beside its body, at most: one that is not worth it has none."""
_GZIP_COST = 16
"""Compressing takes as long as going over so many times the bytes."""
_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.IGNORECASE)
_CODING = re.compile(r"(?:^|,)\s*(gzip|\*)\s*(?:;\s*q=([01](?:\.\d{0,3})?)\s*)?(?=,|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ServedBody:
    """A body that is held. `tag` is an entity tag, quotes included."""

    content_type: str
    body: bytes
    tag: str
    shrinks: bool = False
    """Whether compressing is worth a try though it is no JSON: weights as arrays of byte numbers, a GPT's of 34 MB."""

    @property
    def size(self) -> int:
        return len(self.body)


@dataclass(frozen=True, slots=True)
class StreamedBody:
    """A body of `size` bytes that is held nowhere: `chunks` opens it anew for each reader."""

    content_type: str
    size: int
    tag: str
    chunks: Callable[[], AsyncGenerator[bytes, None]]


class Bodies:
    """One per gateway. Compresses a body once, whoever asks for it; keeps `max_bytes` of what came of it."""

    def __init__(self, *, max_bytes: int) -> None:
        self._compressed: BodyCache[bytes] = BodyCache(max_bytes=max_bytes, size=lambda body: len(body) + _ENTRY_BYTES)

    async def answer(
        self,
        request: Request,
        served: ServedBody | StreamedBody,
        *,
        cached: str = FRESH,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """The response to a GET (or HEAD) of `served`."""
        said = {"ETag": served.tag, "Cache-Control": cached, "Accept-Ranges": "bytes", **(headers or {})}
        compressed_tag = f'{served.tag[:-1]}-gzip"'
        may_shrink = _may_shrink(served)
        if may_shrink:
            said["Vary"] = ", ".join(filter(None, (said.get("Vary"), "Accept-Encoding")))
        for tag in (served.tag, compressed_tag):
            if _names(request.headers.get("if-none-match", ""), tag):
                return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=said | {"ETag": tag})
        part = _range(request, served)
        if part is None and may_shrink and _takes_gzip(request) and isinstance(served, ServedBody):
            shrunk = await self._shrunk(served)
            if shrunk:
                coded = said | {"ETag": compressed_tag, "Content-Encoding": "gzip"}
                return Response(shrunk, media_type=served.content_type, headers=coded)
        if part is not None:
            return _part(served, part, said)
        if request.state.is_head:
            return Response(media_type=served.content_type, headers=said | {"Content-Length": str(served.size)})
        return _whole(served, said)

    async def _shrunk(self, served: ServedBody) -> bytes:
        """Nothing where it is not worth it."""

        async def make() -> bytes:
            return await off_loop(_GZIP_COST * served.size, _gzip, served.body)

        return await self._compressed.get_or_make(served.tag, "gzip", 0, make)


def _may_shrink(served: ServedBody | StreamedBody) -> bool:
    return (
        isinstance(served, ServedBody)
        and (served.shrinks or served.content_type == "application/json")
        and COMPRESSED_FROM_BYTES <= served.size <= COMPRESSED_TO_BYTES
    )


def _gzip(body: bytes) -> bytes:
    compressing = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    shrunk = compressing.compress(body) + compressing.flush()
    return shrunk if len(shrunk) < WORTH * len(body) else b""


def _takes_gzip(request: Request) -> bool:
    weights = {name.lower(): float(q or 1) for name, q in _CODING.findall(request.headers.get("accept-encoding", ""))}
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _names(condition: str, tag: str) -> bool:
    """Whether a list of entity tags holds this one, by weak comparison."""
    given = {one.strip().removeprefix("W/") for one in condition.split(",")}
    return tag in given or "*" in given


def _range(request: Request, served: ServedBody | StreamedBody) -> tuple[int, int] | None:
    """First byte and the one behind the last; None: the whole. Empty: nothing of the body is in it."""
    asked = _RANGE.fullmatch(request.headers.get("range", "").strip())
    condition = request.headers.get("if-range")
    if asked is None or (condition is not None and condition.strip() != served.tag):
        return None
    first, last = asked.groups()
    # No body is longer than a number of 18 digits says.
    if len(first) > 18 or len(last) > 18 or not (first or last):
        return None
    if not first:
        return max(0, served.size - int(last)), served.size
    if last and int(last) < int(first):
        return None  # RFC 9110, 14.1.1: such a range is no range
    return int(first), min(int(last) + 1, served.size) if last else served.size


def _whole(served: ServedBody | StreamedBody, headers: dict[str, str]) -> Response:
    if isinstance(served, ServedBody):
        return Response(served.body, media_type=served.content_type, headers=headers)
    return StreamingResponse(
        _chunks(served, 0, served.size),
        media_type=served.content_type,
        headers=headers | {"Content-Length": str(served.size)},
    )


def _part(served: ServedBody | StreamedBody, part: tuple[int, int], headers: dict[str, str]) -> Response:
    start, end = part
    if start >= end:
        detail = f"The body has {served.size} bytes; ask for some of them, or leave Range out."
        refused = problem(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "RANGE_NOT_SATISFIABLE", detail)
        refused.headers["Content-Range"] = f"bytes */{served.size}"
        return refused
    headers |= {"Content-Range": f"bytes {start}-{end - 1}/{served.size}"}
    if isinstance(served, ServedBody):
        body = served.body[start:end]
        return Response(body, HTTPStatus.PARTIAL_CONTENT, media_type=served.content_type, headers=headers)
    return StreamingResponse(
        _chunks(served, start, end),
        HTTPStatus.PARTIAL_CONTENT,
        media_type=served.content_type,
        headers=headers | {"Content-Length": str(end - start)},
    )


async def _chunks(served: StreamedBody, start: int, end: int) -> AsyncIterator[bytes]:
    """From byte `start` up to byte `end`. What comes before is read and dropped: its digest is checked on the way."""
    at = 0
    async with aclosing(served.chunks()) as chunks:
        async for chunk in chunks:
            wanted = chunk[max(0, start - at) : max(0, end - at)]
            at += len(chunk)
            if wanted:
                yield wanted
            if at >= end:
                return
