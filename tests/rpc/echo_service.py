"""A service with one method of each kind, in both styles of handlers, and a server to run it in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from rpc.server import serve
from rpc.settings import ServerSettings

SERVICE = "test.Echo"

Body = Callable[[bytes, Any], Awaitable[None]]


@dataclass
class Running:
    """A server under test: where it listens, and the event that stops it."""

    port: int
    stop: asyncio.Event
    finished: asyncio.Task[None]

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def running(handlers: dict[str, Any], **options: Any) -> AsyncIterator[Running]:
    """Runs `serve` with these handlers while the block runs; `options` replace its arguments."""

    def add(server: grpc.aio.Server) -> None:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    stop = asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    arguments: dict[str, Any] = {
        "names": [SERVICE],
        "host": "127.0.0.1",
        "port": 0,
        "settings": ServerSettings(),
        "ready": port.set_result,
        "stop": stop,
    } | options
    finished = asyncio.create_task(serve(add, **arguments))
    await asyncio.wait({finished, port}, return_when=asyncio.FIRST_COMPLETED)
    if finished.done():
        finished.result()
    try:
        yield Running(port.result(), stop, finished)
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await finished


def echo_handlers(body: Body) -> dict[str, Any]:
    """Methods of each kind. All call `body(request, context)`; those with streamed answers send b"first" before."""

    async def unary_unary(request: bytes, context: Any) -> bytes:
        await body(request, context)
        return b"answer"

    async def unary_stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await body(request, context)

    async def unary_stream_written(request: bytes, context: Any) -> None:
        await context.write(b"first")
        await body(request, context)

    async def stream_unary(requests: AsyncIterator[bytes], context: Any) -> bytes:
        async for request in requests:
            await body(request, context)
        return b"answer"

    async def stream_stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield b"first"
            await body(request, context)

    async def stream_stream_written(_requests: AsyncIterator[bytes], context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(b"first")
            await body(request, context)

    return {
        "UnaryUnary": grpc.unary_unary_rpc_method_handler(unary_unary),
        "UnaryStream": grpc.unary_stream_rpc_method_handler(unary_stream),
        "UnaryStreamWritten": grpc.unary_stream_rpc_method_handler(unary_stream_written),
        "StreamUnary": grpc.stream_unary_rpc_method_handler(stream_unary),
        "StreamStream": grpc.stream_stream_rpc_method_handler(stream_stream),
        "StreamStreamWritten": grpc.stream_stream_rpc_method_handler(stream_stream_written),
    }


METHODS = tuple(echo_handlers(lambda _request, _context: asyncio.sleep(0)))


async def call(channel: grpc.aio.Channel, method: str, request: bytes = b"", **options: Any) -> list[bytes]:
    """Calls a method of any kind with one message and returns all answers."""
    received: list[bytes] = []
    await call_into(received, channel, method, request, **options)
    return received


async def call_into(
    received: list[bytes], channel: grpc.aio.Channel, method: str, request: bytes = b"", **options: Any
) -> None:
    """Like `call`; `received` keeps what came before a failure."""
    path = f"/{SERVICE}/{method}"

    async def requests() -> AsyncIterator[bytes]:
        yield request

    if method.startswith("Unary"):
        argument: Any = request
        start: Any = channel.unary_stream(path) if "Stream" in method else channel.unary_unary(path)
    else:
        argument = requests()
        start = channel.stream_stream(path) if method.startswith("StreamStream") else channel.stream_unary(path)
    outgoing = start(argument, **options)
    if method in ("UnaryUnary", "StreamUnary"):
        received.append(await outgoing)
        return
    async for message in outgoing:
        received.append(message)
