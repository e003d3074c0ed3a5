"""Conditional, partial and compressed answers, as a client of HTTP sees them."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncGenerator, AsyncIterator

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI, Request, Response
from hypothesis import given
from hypothesis import strategies as st

from gateway.http_bodies import Bodies, ServedBody, StreamedBody

NUMBERS = bytes(range(256)) * 40
DOCUMENT = b'{"a":[' + b"1,22,333," * 400 + b"4]}"
NOISE = b'{"a": "' + bytes(range(35, 92)) + b'"}'


async def numbers() -> AsyncGenerator[bytes, None]:
    for start in range(0, len(NUMBERS), 1000):
        yield NUMBERS[start : start + 1000]


BODIES = {
    "held": ServedBody("application/octet-stream", NUMBERS, '"numbers"'),
    "byte numbers": ServedBody("application/octet-stream", NUMBERS, '"byte"', shrinks=True),
    "streamed": StreamedBody("application/octet-stream", len(NUMBERS), '"numbers"', numbers),
    "document": ServedBody("application/json", DOCUMENT, '"document"'),
    "short": ServedBody("application/json", NOISE, '"short"'),
}


@pytest_asyncio.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    app, bodies = FastAPI(), Bodies(max_bytes=1 << 20)

    @app.get("/{name}")
    async def read(request: Request, name: str) -> Response:
        request.state.is_head = "x-head" in request.headers
        return await bodies.answer(request, BODIES[name], headers={"Vary": "Accept"})

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers={"Accept-Encoding": ""}
    ) as client:
        yield client


@pytest.mark.parametrize("name", ["held", "streamed"])
async def test_the_whole_says_its_size_and_its_tag_and_that_it_can_be_had_in_parts(
    http: httpx.AsyncClient, name: str
) -> None:
    answer = await http.get(f"/{name}")
    assert (answer.status_code, answer.content) == (200, NUMBERS)
    assert answer.headers["content-length"] == str(len(NUMBERS))
    assert (answer.headers["etag"], answer.headers["accept-ranges"]) == ('"numbers"', "bytes")
    assert (answer.headers["vary"], answer.headers["cache-control"]) == ("Accept", "no-cache")


@pytest.mark.parametrize("name", ["held", "streamed"])
@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=999-1000", 999, 1001),
        ("bytes=1000-1999", 1000, 2000),
        ("bytes=10239-", 10239, 10240),
        ("bytes=5000-99999999", 5000, 10240),
        ("bytes=-1", 10239, 10240),
        ("bytes=-99999", 0, 10240),
        ("Bytes=7-8", 7, 9),
    ],
)
async def test_a_range_gets_its_bytes(http: httpx.AsyncClient, name: str, asked: str, start: int, end: int) -> None:
    answer = await http.get(f"/{name}", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (206, NUMBERS[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/10240"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("name", ["held", "streamed"])
@pytest.mark.parametrize("asked", ["bytes=10240-", "bytes=99999-100000", "bytes=-0"])
async def test_a_range_outside_the_body_is_refused_with_its_size(
    http: httpx.AsyncClient, name: str, asked: str
) -> None:
    answer = await http.get(f"/{name}", headers={"Range": asked})
    assert (answer.status_code, answer.json()["reason"]) == (416, "RANGE_NOT_SATISFIABLE")
    assert answer.headers["content-range"] == "bytes */10240"


@pytest.mark.parametrize(
    "asked", ["bytes=5-4", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=0-1,5-6", "bytes=" + "9" * 5000 + "-", ""]
)
async def test_what_is_no_single_range_gets_the_whole(http: httpx.AsyncClient, asked: str) -> None:
    answer = await http.get("/held", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, NUMBERS)


async def test_a_part_of_another_body_is_not_mixed_into_this_one(http: httpx.AsyncClient) -> None:
    asked = {"Range": "bytes=0-9"}
    assert (await http.get("/held", headers=asked | {"If-Range": '"numbers"'})).status_code == 206
    for condition in ('"another"', 'W/"numbers"', "Sat, 21 Nov 2026 04:00:00 GMT"):
        answer = await http.get("/held", headers=asked | {"If-Range": condition})
        assert (answer.status_code, answer.content) == (200, NUMBERS)


@pytest.mark.parametrize("condition", ['"numbers"', 'W/"numbers"', '"x", "numbers"', "*", '"numbers-gzip"'])
async def test_who_has_the_body_is_not_sent_it_again(http: httpx.AsyncClient, condition: str) -> None:
    answer = await http.get("/held", headers={"If-None-Match": condition})
    assert (answer.status_code, answer.content) == (304, b"")


async def test_json_is_compressed_for_who_asks_and_has_a_tag_of_its_own(http: httpx.AsyncClient) -> None:
    plain = await http.get("/document")
    assert (plain.content, plain.headers["etag"]) == (DOCUMENT, '"document"')
    assert plain.headers["vary"] == "Accept, Accept-Encoding"
    async with http.stream("GET", "/document", headers={"Accept-Encoding": "br, gzip"}) as coded:
        raw = b"".join([part async for part in coded.aiter_raw()])
    assert gzip.decompress(raw) == DOCUMENT
    assert len(raw) == int(coded.headers["content-length"]) < len(DOCUMENT) / 2
    assert (coded.headers["content-encoding"], coded.headers["etag"]) == ("gzip", '"document-gzip"')
    again = await http.get("/document", headers={"If-None-Match": '"document-gzip"', "Accept-Encoding": "gzip"})
    assert again.status_code == 304


async def test_byte_numbers_are_compressed_although_they_are_no_json(http: httpx.AsyncClient) -> None:
    coded = await http.get("/byte numbers", headers={"Accept-Encoding": "gzip"})
    assert (coded.content, coded.headers["content-encoding"]) == (NUMBERS, "gzip")
    assert coded.headers["vary"] == "Accept, Accept-Encoding"
    assert int(coded.headers["content-length"]) < len(NUMBERS) / 2


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("document", "identity"),
        ("document", "gzip;q=0, br"),
        ("document", "*;q=0"),
        ("document", "gzip;q=nonsense"),
        ("document", "xgzip"),
        ("held", "gzip"),
        ("short", "gzip"),
        ("streamed", "gzip"),
    ],
)
async def test_what_is_not_asked_for_or_does_not_help_is_not_compressed(
    http: httpx.AsyncClient, name: str, accepted: str
) -> None:
    answer = await http.get(f"/{name}", headers={"Accept-Encoding": accepted})
    assert "content-encoding" not in answer.headers


async def test_parts_are_of_the_plain_body(http: httpx.AsyncClient) -> None:
    answer = await http.get("/document", headers={"Accept-Encoding": "gzip", "Range": "bytes=2-4"})
    assert (answer.status_code, answer.content) == (206, DOCUMENT[2:5])
    assert "content-encoding" not in answer.headers


async def test_head_says_the_same_and_reads_nothing(http: httpx.AsyncClient) -> None:
    answer = await http.get("/streamed", headers={"X-Head": "1"})
    assert answer.content == b""
    assert answer.headers["content-length"] == str(len(NUMBERS))


async def test_reader_that_has_its_part_closes_the_stream_behind_it() -> None:
    closed = asyncio.Event()

    async def watched() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield bytes(10)
        finally:
            closed.set()

    served = StreamedBody("application/octet-stream", 1 << 40, '"endless"', watched)
    app, bodies = FastAPI(), Bodies(max_bytes=1 << 20)

    @app.get("/")
    async def read(request: Request) -> Response:
        request.state.is_head = False
        return await bodies.answer(request, served)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/", headers={"Range": "bytes=15-30"})).content == bytes(16)
    assert closed.is_set()


@given(st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=60))
def test_no_header_of_a_stranger_makes_the_answer_fail(header: str) -> None:
    async def ask() -> None:
        bodies = Bodies(max_bytes=1 << 20)
        for name in ("range", "if-range", "if-none-match", "accept-encoding"):
            headers = [(name.encode(), header.encode("latin-1")), (b"range", b"bytes=0-1")]
            scope = {"type": "http", "method": "GET", "headers": headers, "state": {"is_head": False}}
            for body in BODIES.values():
                assert (await bodies.answer(Request(scope), body)).status_code in (200, 206, 304, 416)

    asyncio.run(ask())
