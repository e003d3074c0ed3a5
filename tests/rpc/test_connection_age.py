"""Connections end at an age, so that replicas that come later are found; what runs on them does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rpc import server as rpc_server
from rpc.channel import connect
from rpc.chunks import CHUNK_BYTES
from tests.rpc.echo_service import SERVICE, call, echo_handlers, running
from tests.rpc.name_server import name_server
from tests.waiting import eventually

AGE_S = 0.3


@pytest.fixture(autouse=True)
def _old_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_server, "MAX_CONNECTION_AGE_S", AGE_S)


async def test_connections_are_renewed_and_streams_survive_it() -> None:
    # What should happen: calls go over one new connection after the other; a stream without end and an upload that
    # began on the first one go on. What should not happen: an error anywhere.
    peers: list[str] = []

    async def note(request: bytes, context: Any) -> None:
        if request == b"who?":
            peers.append(context.peer())

    old_enough = asyncio.Event()

    async def slow_upload() -> AsyncIterator[bytes]:
        yield bytes(CHUNK_BYTES)
        await old_enough.wait()
        yield bytes(CHUNK_BYTES)

    async with running(echo_handlers(note)) as server, connect(server.target) as channel:
        stream = channel.stream_stream(f"/{SERVICE}/StreamStreamWritten")()
        await stream.write(b"")
        assert await stream.read() == b"first"
        upload = asyncio.ensure_future(channel.stream_unary(f"/{SERVICE}/StreamUnary")(slow_upload()))

        async def over_a_third_connection() -> bool:
            assert await call(channel, "UnaryUnary", b"who?") == [b"answer"]
            return len(set(peers)) >= 3

        await eventually(over_a_third_connection)
        old_enough.set()
        assert await upload == b"answer"
        await stream.write(b"")
        assert await stream.read() == b"first"
        await stream.done_writing()


async def test_replica_that_comes_later_gets_calls() -> None:
    reached: set[str] = set()

    def noting(name: str) -> Any:
        async def note(_request: bytes, _context: Any) -> None:
            reached.add(name)

        return echo_handlers(note)

    async with name_server("127.0.0.1") as names, running(noting("one")) as one:
        target = f"dns://127.0.0.1:{names.port}/replicas.test:{one.port}"
        async with (
            running(noting("two"), host="127.0.0.2", port=one.port),
            connect(target) as channel,
        ):
            for _ in range(10):
                assert await call(channel, "UnaryUnary") == [b"answer"]
            assert reached == {"one"}
            names.addresses.append("127.0.0.2")

            async def both_are_reached() -> bool:
                assert await call(channel, "UnaryUnary") == [b"answer"]
                return reached == {"one", "two"}

            await eventually(both_are_reached)
