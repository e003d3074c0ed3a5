"""An HTTP server on loopback that says, byte by byte, what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

Say = Callable[[asyncio.StreamWriter], Coroutine[Any, Any, None]]


class FileServer:
    """`pages` by path: a body, or what writes the whole answer. Remembers the requests."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes | Say] = {}
        self.requests: list[dict[str, str]] = []
        self.sni: list[str | None] = []
        self._serving: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        """Yields the URL, without a slash at the end."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        finally:
            server.close()
            await server.wait_closed()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    def redirect(self, path: str, location: str, status: int = 302) -> None:
        self.pages[path] = answer(status, {"Location": location, "Content-Length": "0"})

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        path = lines[0].split(" ")[1]
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        self.requests.append({"path": path, **{name.lower(): value for name, value in pairs}})
        page = self.pages.get(path)
        if page is None:
            page = answer(404, {"Content-Length": "0"})
        elif isinstance(page, bytes):
            page = answer(200, {"Content-Length": str(len(page))}, page)
        await page(writer)
        await writer.drain()


def answer(status: int, headers: Mapping[str, str], body: bytes = b"") -> Say:
    """An answer that is said at once."""

    async def say(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode() + body)

    return say
