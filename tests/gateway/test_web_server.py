"""How sockets are written and closed, over real TCP."""

from __future__ import annotations

import asyncio
import logging
import socket

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.web_server import SHARED_FROM_BYTES, listen
from tests.gateway.conftest import LIMIT, Running
from tests.gateway.recorders import Services, weights_of
from tests.gateway.test_websocket import CLIENT, SECONDS, hear, say
from tests.waiting import eventually

LARGE = ((200, 200),)


async def test_large_version_arrives_whole(gateway: Running, services: Services) -> None:
    services.store.add("large", shapes=LARGE)
    async with connect(f"{gateway.socket_url}/feai/large/{CLIENT}") as client:
        await say(client, type=0)
        await hear(client)
        await services.aggregator.publish("large", weights_of(1.5, LARGE))
        await say(client, type=11)
        answer = await hear(client)
        assert len(answer["weights"]) > SHARED_FROM_BYTES
        assert msgspec.msgpack.decode(answer["weights"])[0]["data"] == [1.5] * 40_000
        await say(client, type=13)
        assert (await hear(client))["type"] == 13


async def test_reader_that_does_not_read_is_dropped_and_costs_nobody_else(
    gateway: Running, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What should happen: the one that does not read is closed with SLOW_CONSUMER once its box is full.
    # What should not happen: a memory that grows, another client that waits.
    monkeypatch.setattr("gateway.connection.CLOSE_WITHIN_S", 0.05)
    services.store.add("large", shapes=LARGE)
    slow = await connect(f"{gateway.socket_url}/feai/large/slow", max_queue=1)
    async with connect(f"{gateway.socket_url}/feai/large/quick") as quick:
        await say(quick, type=0)
        await hear(quick)
        await say(slow, type=0)
        slow.transport.pause_reading()

        async def dropped() -> bool:
            await say(slow, type=11)
            await say(quick, type=13)
            assert (await hear(quick))["type"] == 13
            return gateway.counted("disco_gateway_sockets_ended_total", reason="SLOW_CONSUMER") == 1

        await eventually(dropped)

    async def forgotten() -> bool:
        return gateway.counted("disco_gateway_sockets", scheme="federated", dialect="g21") == 0

    await eventually(forgotten)
    assert sorted(services.aggregator.left) == ["quick", "slow"]
    slow.transport.abort()


async def test_client_that_sends_too_much_without_reading_still_learns_why(gateway: Running) -> None:
    """A connection that is closed under a sender is reset, and what it was told is lost with it."""

    def send_all_then_read() -> bytes:
        with socket.create_connection(("127.0.0.1", gateway.port)) as client:
            client.settimeout(SECONDS)
            client.sendall(
                f"GET /feai/fed/{CLIENT} HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
            heard = client.recv(4096)
            client.sendall(bytes([0x82, 0x80 | 127]) + (20 * LIMIT).to_bytes(8, "big") + bytes(4))
            for _ in range(20):
                client.sendall(bytes(LIMIT))
            while more := client.recv(4096):
                heard += more
            return heard

    heard = await asyncio.to_thread(send_all_then_read)
    assert b"\r\n\r\n\x88" in heard
    assert (1009).to_bytes(2, "big") in heard.partition(b"\r\n\r\n")[2]


async def test_refused_upgrade_is_no_error_of_the_web_server(
    gateway: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{gateway.socket_url}/feai/unknown/{CLIENT}")
    assert refused.value.response.status_code == 404

    async def ended() -> bool:
        return not gateway.server.server_state.tasks

    await eventually(ended)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_dead_connections_are_noticed_by_tcp() -> None:
    with listen("127.0.0.1", 0) as listening:
        loop = asyncio.get_running_loop()
        with socket.create_connection(listening.getsockname()):
            accepted, _ = await asyncio.wait_for(loop.sock_accept(listening), SECONDS)
            with accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000


async def test_compression_is_not_negotiated(gateway: Running) -> None:
    async with connect(f"{gateway.socket_url}/feai/fed/{CLIENT}") as client:
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers
