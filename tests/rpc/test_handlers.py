"""Any kind of handler as one behaviour."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from rpc.channel import connect
from rpc.handlers import behaviour_of, with_behaviour
from tests.rpc.echo_service import METHODS, SERVICE, echo_handlers, running


async def nothing(_request: bytes, _context: Any) -> None:
    return


@pytest.mark.parametrize("method", METHODS)
def test_a_wrapped_handler_keeps_its_kind_and_its_serializers(method: str) -> None:
    handler = echo_handlers(nothing)[method]._replace(request_deserializer=bytes.decode, response_serializer=str.encode)
    wrapped = with_behaviour(handler, behaviour_of(handler))
    assert (wrapped.request_streaming, wrapped.response_streaming) == (
        handler.request_streaming,
        handler.response_streaming,
    )
    assert (wrapped.request_deserializer, wrapped.response_serializer) == (bytes.decode, str.encode)


async def test_a_generator_is_closed_when_its_reader_goes_while_it_is_suspended_in_a_message() -> None:
    closed = asyncio.Event()
    tasks = []

    async def forever(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        tasks.append(asyncio.current_task())
        try:
            while True:  # fills the window of the stream, then waits inside the write
                yield b"x" * 65536
        finally:
            tasks.append(asyncio.current_task())
            closed.set()

    handlers = {"Forever": grpc.unary_stream_rpc_method_handler(forever)}
    async with running(handlers) as server, connect(server.target) as channel:
        stream = channel.unary_stream(f"/{SERVICE}/Forever")(b"")
        await stream.read()
        stream.cancel()
        async with asyncio.timeout(10):
            await closed.wait()
    assert tasks[0] is tasks[1]  # by the call itself, not when memory was collected
