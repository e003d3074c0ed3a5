"""A TCP proxy that makes a network fail: it holds requests back, cuts answers off, or answers by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

BLOCK = 65_536


class WeakLink:
    """Forwards every connection to `port`. Use `between`."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.endpoint = ""
        self.lets_requests_through = asyncio.Event()
        self.lets_requests_through.set()
        self.cuts_next_answer_after: int | None = None
        """Bytes of an answer that arrive; then the connection is gone."""
        self.answers_instead: list[bytes] = []
        """What the next PUTs are told; they reach no server."""
        self.held = asyncio.Event()
        """A request is being held back."""
        self.answered = 0
        """Connections on which the server has said something."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as pumps:
                answers = pumps.create_task(self._answers(far_reader, writer))
                await self._requests(reader, far_writer, writer)
                await answers
        except* OSError:
            pass  # one of the two is gone, which is what this is for
        finally:
            writer.close()
            far_writer.close()

    async def _requests(
        self, reader: asyncio.StreamReader, far: asyncio.StreamWriter, near: asyncio.StreamWriter
    ) -> None:
        while block := await reader.read(BLOCK):
            if self.answers_instead and block.startswith(b"PUT "):
                near.write(self.answers_instead.pop(0))
                continue
            if not self.lets_requests_through.is_set():
                self.held.set()
                await self.lets_requests_through.wait()
            far.write(block)
            await far.drain()
        with suppress(OSError):
            far.write_eof()

    async def _answers(self, far: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        said = False
        while block := await far.read(BLOCK):
            self.answered += not said
            said = True
            if self.cuts_next_answer_after is not None:
                near.write(block[: self.cuts_next_answer_after])
                self.cuts_next_answer_after -= len(block)
                if self.cuts_next_answer_after <= 0:
                    self.cuts_next_answer_after = None
                    await near.drain()
                    near.transport.abort()
                    return
                continue
            with suppress(OSError):
                near.write(block)
                await near.drain()
        near.close()


@asynccontextmanager
async def between(port: int) -> AsyncIterator[WeakLink]:
    """A link to a server on a port of this machine."""
    link = WeakLink(port)
    running: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(link.serve(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    link.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield link
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
