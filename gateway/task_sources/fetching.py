"""Fetches a file from a URL that a stranger gave, into a file of ours.

    https only; http to networks that the operator names
    every hop (at most MAX_REDIRECTS): the name is resolved once, every address it has is checked, and the
      connection goes to a checked address; Host and the certificate's name stay those of the URL
    bytes, seconds in all and seconds of silence are bounded; what is compressed counts as it is unpacked

Proxies of the environment are not used: they would resolve names themselves. Knows nothing of models.
"""

from __future__ import annotations

import asyncio
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx

from gateway.task_sources.allowed_addresses import Network, is_allowed, is_named

MAX_REDIRECTS: Final = 5
MAX_URL: Final = 2048
CONNECT_S: Final = 10.0
IDLE_S: Final = 20.0
TOTAL_S: Final = 300.0
_CHUNK_BYTES: Final = 1 << 16
_REDIRECTS: Final = (301, 302, 303, 307, 308)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class NotFetchedError(Exception):
    """Why a file could not be fetched, as the end of a sentence that begins with the URL."""


@dataclass(frozen=True, slots=True)
class FetchTimes:
    """Seconds: until a connection stands, of silence, and for everything that belongs to one model."""

    connect_s: float = CONNECT_S
    idle_s: float = IDLE_S
    total_s: float = TOTAL_S


async def resolve_by_system(host: str, port: int) -> Sequence[str]:
    """The addresses that the system has for a name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class Fetcher:
    """`allowed` are networks beyond the public internet, which may be spoken to in plain http, too."""

    def __init__(
        self, allowed: Sequence[Network], *, times: FetchTimes | None = None, resolve: Resolve = resolve_by_system
    ) -> None:
        self._allowed = allowed
        self._times = times or FetchTimes()
        self._resolve = resolve

    @property
    def total_s(self) -> float:
        """Seconds that everything that belongs to one model may take."""
        return self._times.total_s

    async def fetch(self, url: str, path: Path, *, limit_bytes: int) -> int:
        """Writes what is at the URL to a new file and returns its bytes. Raises NotFetchedError, OSError."""
        try:
            async with self._answer(url) as answer:
                return await self._write(answer, path, limit_bytes)
        except (httpx.TimeoutException, TimeoutError):
            raise NotFetchedError(f"sent nothing for {self._times.idle_s:g} seconds") from None
        except httpx.HTTPError as error:
            raise NotFetchedError(f"broke off ({type(error).__name__})") from None

    @asynccontextmanager
    async def _answer(self, url: str) -> AsyncIterator[httpx.Response]:
        """The answer at the end of all redirects."""
        times = httpx.Timeout(self._times.idle_s, connect=self._times.connect_s)
        async with httpx.AsyncClient(timeout=times, follow_redirects=False, trust_env=False) as client:
            for _ in range(MAX_REDIRECTS + 1):
                target = _checked(url)
                async with self._hop(client, target) as answer:
                    if answer.status_code not in _REDIRECTS:
                        if answer.status_code != HTTPStatus.OK:
                            raise NotFetchedError(f"answered with status {answer.status_code}")
                        yield answer
                        return
                    url = _location(target, answer)
        raise NotFetchedError(f"redirects more than {MAX_REDIRECTS} times")

    @asynccontextmanager
    async def _hop(self, client: httpx.AsyncClient, url: httpx.URL) -> AsyncIterator[httpx.Response]:
        addresses = await self._addresses(url)
        for index, address in enumerate(addresses):
            request = client.build_request(
                "GET",
                url.copy_with(host=address),
                headers={"Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity", "User-Agent": "disco"},
                extensions={"sni_hostname": url.raw_host.decode("ascii")},
            )
            try:
                answer = await client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if index + 1 == len(addresses):
                    raise NotFetchedError("cannot be reached") from None
                continue
            try:
                yield answer
            finally:
                await answer.aclose()
            return

    async def _addresses(self, url: httpx.URL) -> list[str]:
        """What the host stands for, once and for all of this hop: asked again, a name may say something else."""
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            async with asyncio.timeout(self._times.connect_s):
                found = list(dict.fromkeys(await self._resolve(url.host, port)))
        except (OSError, UnicodeError, TimeoutError):
            found = []
        if not found:
            raise NotFetchedError("has a host that nobody knows")
        if not all(is_allowed(address, self._allowed) for address in found):
            raise NotFetchedError("leads to an address that is not public; see DISCO_FETCH_NETWORKS")
        if url.scheme == "http" and not all(is_named(address, self._allowed) for address in found):
            raise NotFetchedError("is not https; plain http is for the networks of DISCO_FETCH_NETWORKS")
        return found

    async def _write(self, answer: httpx.Response, path: Path, limit_bytes: int) -> int:
        announced = answer.headers.get("content-length", "")
        if "content-encoding" not in answer.headers and announced.isdecimal() and int(announced) > limit_bytes:
            raise NotFetchedError(f"is larger than {limit_bytes} bytes")
        size = 0
        with path.open("xb") as file:
            async for piece in unpacked(answer):
                size += len(piece)
                if size > limit_bytes:
                    raise NotFetchedError(f"is larger than {limit_bytes} bytes")
                file.write(piece)
        return size


def _checked(url: str) -> httpx.URL:
    """A URL that might be fetched. Raises NotFetchedError."""
    if len(url) > MAX_URL:
        raise NotFetchedError(f"is longer than {MAX_URL} characters")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise NotFetchedError("is no URL") from None
    if parsed.scheme not in ("https", "http") or not parsed.host:
        raise NotFetchedError("is no absolute http(s) URL")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise NotFetchedError("is no URL")
    if parsed.userinfo:
        raise NotFetchedError("holds a user name or a password")
    return parsed


def _location(url: httpx.URL, answer: httpx.Response) -> str:
    location = answer.headers.get("location", "")
    try:
        return str(url.join(location))
    except httpx.InvalidURL:
        raise NotFetchedError("redirects to what is no URL") from None


async def unpacked(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The bytes of the body in small pieces, whatever it was compressed with, and however much it swells."""
    encoding = answer.headers.get("content-encoding", "identity").lower()
    if encoding == "identity":
        async for piece in answer.aiter_raw(_CHUNK_BYTES):
            yield piece
        return
    if encoding not in ("gzip", "x-gzip"):
        raise NotFetchedError("is compressed in a way that was not asked for")
    unpacking = zlib.decompressobj(wbits=31)
    try:
        async for packed in answer.aiter_raw(_CHUNK_BYTES):
            while packed:
                yield unpacking.decompress(packed, _CHUNK_BYTES)
                packed = unpacking.unconsumed_tail
        while piece := unpacking.decompress(b"", _CHUNK_BYTES):
            yield piece
    except zlib.error:
        raise NotFetchedError("is not the gzip that it claims to be") from None
    if not unpacking.eof:
        raise NotFetchedError("breaks off")
