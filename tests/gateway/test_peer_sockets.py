"""Sockets of decentralized tasks against a real server and recorders of the services."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.gateway.conftest import Running
from tests.gateway.recorders import Services
from tests.gateway.test_websocket import SECONDS, hear, say
from tests.waiting import eventually


async def said(services: Services, peer_id: str, *kinds: str) -> None:
    """Waits until the service was told these, apart from what came before."""

    async def heard() -> bool:
        return services.signaling.said(peer_id)[-len(kinds) :] == list(kinds)

    await eventually(heard)


@pytest.mark.parametrize("path", ["/deai/dec", "/deai/dec/", "/deai/dec/mine", "/deai/dec/mine/", "/v2.1/deai/dec"])
async def test_peer_gets_a_number_for_an_id(gateway: Running, path: str) -> None:
    async with connect(gateway.socket_url + path) as socket:
        await say(socket, type=0)
        assert await hear(socket) == {"type": 1, "id": 0}


@pytest.mark.parametrize(
    ("path", "welcome", "listed", "protocol", "patience_s"),
    [
        ("/v2.1/deai/dec", {"type": 1, "id": 0}, {"type": 4, "peers": [1, 2]}, "g21", 9),
        ("/v2.2/deai/dec", {"type": 1, "id": "0"}, {"type": 4, "peers": ["1", "2"]}, "g22", 14),
        ("/v3.0/deai/dec", {"type": 1, "id": "0"}, {"type": 4, "peers": ["1", "2"]}, "g22", 14),
        (
            "/decentralized/dec",
            {"type": 1, "id": "0", "waitForMoreParticipants": False},
            {"type": 4, "peers": ["1", "2"], "aggregationRound": 5},
            "gdv",
            None,
        ),
    ],
)
async def test_every_generation_is_told_in_its_own_words_and_by_its_own_patience(
    gateway: Running,
    services: Services,
    path: str,
    welcome: dict[str, Any],
    listed: dict[str, Any],
    protocol: str,
    patience_s: int | None,
) -> None:
    async with connect(gateway.socket_url + path) as socket:
        await say(socket, type=0)
        assert await hear(socket) == welcome
        await say(socket, type=3)
        await said(services, "0", "start_session", "mark_ready")
        start, ready = services.signaling.requests["0"]
        assert start.start_session.peer_protocol == protocol
        assert ready.mark_ready.HasField("patience") == (patience_s is not None)
        assert ready.mark_ready.patience.seconds == (patience_s or 0)
        services.signaling.tell("0", 5, ["1", "2"])
        assert await hear(socket) == listed


async def test_peers_are_introduced_and_exchange_signals(gateway: Running, services: Services) -> None:
    signal: dict[str, Any] = {"type": "offer", "sdp": "v=0", "nothing": None, "number": 1.5}
    async with connect(f"{gateway.socket_url}/deai/dec") as one, connect(f"{gateway.socket_url}/deai/dec") as two:
        for number, socket in enumerate((one, two)):
            await say(socket, type=0)
            assert await hear(socket) == {"type": 1, "id": number}
            await say(socket, type=3)
        await said(services, "0", "mark_ready")
        await said(services, "1", "mark_ready")
        assert services.signaling.requests["0"][-1].mark_ready.patience.seconds == 9

        services.signaling.tell("1", 0, ["0"])
        assert await hear(two) == {"type": 4, "peers": [0]}
        # One is told later than two: what two says at once must wait for one's list, and a moment more.
        await say(two, type=2, peer=0, signal=signal)
        await said(services, "1", "send_signal")
        services.signaling.tell("0", 0, ["1"])
        assert await hear(one) == {"type": 4, "peers": [1]}
        listed = time.monotonic()
        assert await hear(one) == {"type": 2, "peer": 1, "signal": signal}
        assert time.monotonic() - listed > 0.04
    await said(services, "0", "end_session")
    await said(services, "1", "end_session")


async def test_peer_is_ready_when_its_client_attends_again(
    gateway: Running, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.signaling_link.ATTENDS_WITHIN_S", 3600)
    async with connect(f"{gateway.socket_url}/deai/dec") as socket:
        await say(socket, type=0)
        await hear(socket)
        socket.transport.pause_reading()
        await say(socket, type=3)
        await say(socket, type=2, peer=1, signal={"type": "offer"})
        await said(services, "0", "start_session", "send_signal")
        socket.transport.resume_reading()
        await said(services, "0", "start_session", "send_signal", "mark_ready")


async def test_peer_that_answers_no_ping_is_ready_a_moment_later(
    gateway: Running, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.signaling_link.ATTENDS_WITHIN_S", 0.02)
    async with connect(f"{gateway.socket_url}/deai/dec") as socket:
        await say(socket, type=0)
        await hear(socket)
        socket.transport.pause_reading()
        await say(socket, type=3)
        await said(services, "0", "start_session", "mark_ready")
        socket.transport.resume_reading()


async def test_socket_survives_the_signaling_service(gateway: Running, services: Services) -> None:
    # What should happen: the stream is opened again with the peer's id and token; the ready mark and what was said
    # meanwhile are sent again. What should not happen: a closed socket, a second welcome.
    async with connect(f"{gateway.socket_url}/deai/dec") as socket:
        await say(socket, type=0)
        await hear(socket)
        await say(socket, type=3)
        await said(services, "0", "mark_ready")
        await services.stop()

        async def noticed() -> bool:
            return gateway.counted("disco_gateway_calls_failed_total", call="Connect", reason="STORE_UNAVAILABLE") > 0

        await eventually(noticed)
        await say(socket, type=2, peer=1, signal={"type": "offer"})
        await services.start()
        await said(services, "0", "start_session", "send_signal", "mark_ready")
        again = services.signaling.requests["0"][-3].start_session
        assert (again.peer_id, again.session_token, again.next_round) == ("0", "token-0", 0)
        assert 0 < services.signaling.requests["0"][-1].mark_ready.patience.seconds < 9
        services.signaling.tell("0", 0, ["1"])
        assert await hear(socket) == {"type": 4, "peers": [1]}


async def test_goodbye_of_a_peer_is_no_failed_call(gateway: Running, services: Services) -> None:
    async with connect(f"{gateway.socket_url}/deai/dec") as socket:
        await say(socket, type=0)
        await hear(socket)
    await said(services, "0", "end_session")

    async def forgotten() -> bool:
        return gateway.counted("disco_gateway_sockets", scheme="decentralized", dialect="g21") == 0

    await eventually(forgotten)
    assert gateway.counted("disco_gateway_calls_failed_total", call="Connect", reason="STORE_UNAVAILABLE") == 0


async def test_bad_frame_of_a_peer_costs_that_message_only(gateway: Running) -> None:
    async with connect(f"{gateway.socket_url}/deai/dec") as socket:
        await socket.send(b"\xc1")
        await socket.send("text")
        await say(socket, type=8, weights=[], round=0)
        await say(socket, type=0)
        assert await hear(socket) == {"type": 1, "id": 0}
    assert gateway.counted("disco_gateway_messages_refused_total", reason="MALFORMED_MESSAGE") == 3


async def test_task_that_the_service_refuses_closes_the_socket(gateway: Running, services: Services) -> None:
    del services.store.tasks["fed"]
    services.store.add("fed")
    async with connect(f"{gateway.socket_url}/feai/fed/someone") as socket:
        del services.store.tasks["fed"]
        await say(socket, type=0)
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(socket.recv(), SECONDS)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4504
    assert msgspec.json.encode(closed.value.rcvd.reason).startswith(b'"TASK_NOT_FOUND')
