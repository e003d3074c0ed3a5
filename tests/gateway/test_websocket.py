"""Sockets against a real server and recorders of the services."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from gateway.refusal_notes import MAX_UNDER_WAY
from learning.refusals import InvalidWeights
from tests.gateway.conftest import LIMIT, Running
from tests.gateway.recorders import Services, weights_of
from tests.waiting import eventually

CLIENT = "11111111-2222-4333-8444-555555555555"
SECONDS = 10


def encoded(value: float) -> bytes:
    """Weights as a client of 2.1.1 sends them, apart from the outer array of bytes."""
    document = [{"shape": [2, 2], "data": [value] * 4}, {"shape": [2], "data": [value] * 2}]
    return msgspec.msgpack.encode(document)


def contribution(value: float, round: int) -> bytes:
    return msgspec.msgpack.encode({"type": 8, "weights": list(encoded(value)), "round": round})


async def say(socket: ClientConnection, **message: Any) -> None:
    await socket.send(msgspec.msgpack.encode(message))


async def hear(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(SECONDS):
        frame = await socket.recv()
    assert isinstance(frame, bytes)
    decoded: dict[str, Any] = msgspec.msgpack.decode(frame)
    return decoded


def weights_in(answer: dict[str, Any]) -> list[float]:
    return [number for tensor in msgspec.msgpack.decode(answer["weights"]) for number in tensor["data"]]


async def test_participant_contributes_and_gets_the_next_version(gateway: Running, services: Services) -> None:
    async with connect(f"{gateway.socket_url}/feai/fed/{CLIENT}") as socket:
        await say(socket, type=0)
        assert await hear(socket) == {"type": 0}
        assert services.aggregator.present == {"fed": {CLIENT}}

        await socket.send(contribution(3.0, 0))
        await say(socket, type=13)
        statistics = await hear(socket)
        assert statistics["type"] == 13
        assert statistics["statistics"]["currentNumberOfParticipants"] == 1
        await say(socket, type=11)

        async def contributed() -> bool:
            return bool(services.aggregator.contributions)

        await eventually(contributed)
        header, body = services.aggregator.contributions[0]
        assert (header.participant_id, header.round, body) == (CLIENT, 0, weights_of(3.0))
        await services.aggregator.publish("fed", weights_of(7.0))

        answer = await hear(socket)
        assert (answer["type"], answer["round"], weights_in(answer)) == (11, 1, [7.0] * 6)

    async def left() -> bool:
        return services.aggregator.left == [CLIENT]

    await eventually(left)
    assert gateway.counted("disco_gateway_contributions_total", outcome="acknowledged") == 1


async def test_participant_without_news_gets_its_own_round_again(gateway: Running) -> None:
    async with connect(f"{gateway.socket_url}/feai/fed/{CLIENT}/") as socket:
        await say(socket, type=0)
        await hear(socket)
        await say(socket, type=11)
        answer = await hear(socket)
        assert (answer["round"], weights_in(answer)) == (0, [0.0] * 6)


async def test_metadata_of_one_participant_is_told_to_another(gateway: Running) -> None:
    async with (
        connect(f"{gateway.socket_url}/feai/fed/one") as first,
        connect(f"{gateway.socket_url}/feai/fed/two") as second,
    ):
        for socket in (first, second):
            await say(socket, type=0)
            await hear(socket)
        note = {"taskId": "fed", "clientId": "one", "round": 0, "metadataId": "note"}
        await say(first, type=9, metadata="hello", **note)

        async def told() -> bool:
            await say(second, type=10, **(note | {"clientId": "two"}))
            return (await hear(second))["metadataMap"] == [["one", "hello"]]

        await eventually(told)


async def test_metadata_of_one_socket_is_stored_and_read_in_the_order_in_which_it_was_said(
    gateway: Running, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What should happen: a text that is slow to be stored is there for whoever said it and asks, and the later text
    # wins. What should not happen: the question, or the later text, overtaking it.
    overtaken = asyncio.Event()
    put, read = services.aggregator.PutMetadata, services.aggregator.GetMetadata

    async def slow_put(request: Any, context: Any) -> Any:
        if request.value == "first":
            with suppress(TimeoutError):
                await asyncio.wait_for(overtaken.wait(), 0.3)
        else:
            overtaken.set()
        return await put(request, context)

    async def noting_read(request: Any, context: Any) -> Any:
        overtaken.set()
        return await read(request, context)

    monkeypatch.setattr(services.aggregator, "PutMetadata", slow_put)
    monkeypatch.setattr(services.aggregator, "GetMetadata", noting_read)
    await services.stop()
    await services.start()
    note = {"taskId": "fed", "clientId": CLIENT, "round": 0, "metadataId": "note"}
    async with connect(f"{gateway.socket_url}/feai/fed/{CLIENT}") as socket:
        await say(socket, type=0)
        await hear(socket)
        await say(socket, type=9, metadata="first", **note)
        await say(socket, type=10, **note)
        await say(socket, type=9, metadata="second", **note)
        await say(socket, type=10, **note)
        assert [(await hear(socket))["metadataMap"] for _ in range(2)] == [[[CLIENT, "first"]], [[CLIENT, "second"]]]


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\x81\xa4type\xcd\x03\xe7",  # type 999
        b"\x81\xa4type\x08",  # a contribution without weights
        b"\x83\xa4type\x08\xa7weights\x01\xa5round\x00",
        b"\x91" * 5000,
        msgspec.msgpack.encode({"type": 8, "weights": list(encoded(float("nan"))), "round": 0}),
    ],
    ids=["empty", "undecodable", "unknown type", "no weights", "weights no bytes", "deep", "not finite"],
)
async def test_bad_frame_costs_that_message_only(gateway: Running, services: Services, frame: bytes) -> None:
    async with connect(f"{gateway.socket_url}/feai/fed/{CLIENT}") as socket:
        await say(socket, type=0)
        assert await hear(socket) == {"type": 0}
        await socket.send(frame)
        await say(socket, type=13)
        assert (await hear(socket))["type"] == 13
    assert services.aggregator.contributions == []


async def test_text_frame_and_wrong_shapes_are_refused_by_name(gateway: Running, services: Services) -> None:
    wrong = msgspec.msgpack.encode([{"shape": [3], "data": [1.0, 2.0, 3.0]}])
    async with connect(f"{gateway.socket_url}/feai/fed/{CLIENT}") as socket:
        await say(socket, type=0)
        await socket.send("hello")
        await say(socket, type=8, weights=list(wrong), round=0)
        await say(socket, type=13)
        assert [(await hear(socket))["type"] for _ in range(2)] == [0, 13]
    assert gateway.counted("disco_gateway_messages_refused_total", reason="MALFORMED_MESSAGE") == 1
    assert gateway.counted("disco_gateway_messages_refused_total", reason="INVALID_WEIGHTS") == 1
    assert services.aggregator.contributions == []


async def noted_are(services: Services, count: int) -> bool:
    return len(services.aggregator.noted) == count


async def test_contribution_that_cannot_be_used_is_noted_with_its_reason(gateway: Running, services: Services) -> None:
    wrong = msgspec.msgpack.encode([{"shape": [3], "data": [1.0, 2.0, 3.0]}])
    async with connect(f"{gateway.socket_url}/feai/fed/{CLIENT}") as socket:
        await say(socket, type=0)
        await hear(socket)
        await say(socket, type=8, weights=list(wrong), round=0)
        await say(socket, type=8, weights=list(encoded(math.nan)), round=0)
        await eventually(lambda: noted_are(services, 2))
    noted = {note.reason: note for note in services.aggregator.noted}
    assert noted.keys() == {"INVALID_WEIGHTS", "WEIGHTS_NOT_FINITE"}
    for note in noted.values():
        assert (note.task_id, note.participant_id, note.round, note.sha256) == ("fed", CLIENT, 0, b"")
    assert noted["INVALID_WEIGHTS"].sentence == str(InvalidWeights(problem="they have 1 tensors, the model has 2"))


async def test_nobody_waits_for_a_note_and_few_are_under_way(gateway: Running, services: Services) -> None:
    services.aggregator.may_note.clear()
    async with connect(f"{gateway.socket_url}/feai/fed/{CLIENT}") as socket:
        await say(socket, type=0)
        await hear(socket)
        for _ in range(MAX_UNDER_WAY + 5):
            await say(socket, type=8, weights=list(encoded(math.nan)), round=0)
        await say(socket, type=13)
        assert (await hear(socket))["type"] == 13
        assert gateway.counted("disco_gateway_calls_failed_total", call="NoteRefusal", reason="SLOW_CONSUMER") == 5
    services.aggregator.may_note.set()
    await eventually(lambda: noted_are(services, MAX_UNDER_WAY))


async def test_frame_over_the_limit_closes_with_1009(gateway: Running) -> None:
    socket = await connect(f"{gateway.socket_url}/feai/fed/{CLIENT}")
    await say(socket, type=0)
    await hear(socket)

    async def send_too_much() -> None:
        await socket.send(b"\x00" * (20 * LIMIT))
        await socket.recv()

    with pytest.raises(ConnectionClosed) as closed:
        await asyncio.wait_for(send_too_much(), SECONDS)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/feai/unknown/client", "TASK_NOT_FOUND"),
        ("/feai/fed/bad%20id", "INVALID_ID"),
        ("/feai/%2e%2e/client", "INVALID_ID"),
        ("/feai/dec/client", "WRONG_SCHEME"),
        ("/v2.1/deai/fed", "WRONG_SCHEME"),
        ("/federated/dec", "WRONG_SCHEME"),
        ("/v3.0/deai/fed", "WRONG_SCHEME"),
        ("/feai/fed/one/two", "NOT_FOUND"),
        ("/somewhere", "NOT_FOUND"),
    ],
)
async def test_upgrade_that_cannot_be_served_is_answered_404(gateway: Running, path: str, reason: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(gateway.socket_url + path)
    response = refused.value.response
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"
    assert msgspec.json.decode(response.body)["reason"] == reason


@pytest.mark.parametrize(
    ("path", "offered", "confirmed"),
    [
        ("/feai/fed", "disco.v2.1", "disco.v2.1"),
        ("/feai/fed", "disco.v9", None),
        ("/feai/fed/client", "disco.v3.0", None),
        ("/v3.0/feai/fed", "disco.v3", "disco.v3"),
    ],
)
async def test_subprotocol_that_is_not_spoken_is_not_confirmed(
    gateway: Running, path: str, offered: str, confirmed: str | None
) -> None:
    async with connect(gateway.socket_url + path, subprotocols=[Subprotocol(offered)]) as socket:
        assert socket.subprotocol == confirmed


async def test_unknown_task_while_the_task_service_is_away_is_answered_503(
    gateway: Running, services: Services
) -> None:
    await services.stop()
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{gateway.socket_url}/feai/fed/{CLIENT}")
    assert refused.value.response.status_code == 503
    await services.start()


@pytest.mark.parametrize("settings", [{"max_sockets": 2}], indirect=True)
async def test_sockets_beyond_the_limit_are_told_to_come_back(gateway: Running) -> None:
    # What should happen: the socket beyond the limit is refused with 503; a place that is free again is given away.
    # What should not happen: a place that is lost with an upgrade that was refused for something else.
    url = f"{gateway.socket_url}/feai/fed"
    for _ in range(3):
        with pytest.raises(InvalidStatus):
            await connect(f"{gateway.socket_url}/feai/unknown/{CLIENT}")
    first, second = await connect(f"{url}/one"), await connect(f"{url}/two")
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{url}/three")
    response = refused.value.response
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert msgspec.json.decode(response.body)["reason"] == "TOO_MANY_SOCKETS"
    assert gateway.counted("disco_gateway_upgrades_refused_total", reason="TOO_MANY_SOCKETS") == 1
    await first.close()

    async def there_is_room() -> bool:
        try:
            await (await connect(f"{url}/three")).close()
        except InvalidStatus:
            return False
        return True

    await eventually(there_is_room)
    await second.close()


async def test_known_task_is_served_while_the_services_are_away(gateway: Running, services: Services) -> None:
    # What should happen: the socket opens; the contribution and the answer come when the services are back.
    # What should not happen: a lost contribution, a closed socket.
    async with connect(f"{gateway.socket_url}/feai/fed/{CLIENT}") as socket:
        await say(socket, type=0)
        await hear(socket)
        await services.stop()
        await socket.send(contribution(5.0, 0))
        await say(socket, type=13)
        assert (await hear(socket))["type"] == 13
        await services.start()

        async def contributed() -> bool:
            return len(services.aggregator.contributions) == 1

        await eventually(contributed)
        await services.aggregator.publish("fed", weights_of(9.0))
        await say(socket, type=11)
        assert (await hear(socket))["round"] == 1


async def test_client_that_vanishes_mid_upload_leaves(gateway: Running, services: Services) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    writer.write(
        f"GET /feai/fed/{CLIENT} HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    hello = msgspec.msgpack.encode({"type": 0})
    writer.write(bytes([0x82, 0x80 | len(hello), 0, 0, 0, 0]) + hello)  # masked with zeros
    await reader.readexactly(2 + len(hello))
    writer.write(bytes([0x82, 0x80 | 127]) + (LIMIT // 2).to_bytes(8, "big") + bytes(4) + b"\x00" * 1000)
    await writer.drain()
    writer.transport.abort()

    async def left() -> bool:
        return services.aggregator.left == [CLIENT]

    await eventually(left)
    assert services.aggregator.contributions == []


async def test_contribution_that_was_received_whole_outlives_its_socket(gateway: Running, services: Services) -> None:
    services.aggregator.may_answer.clear()
    async with connect(f"{gateway.socket_url}/feai/fed/{CLIENT}") as socket:
        await say(socket, type=0)
        await hear(socket)
        await socket.send(contribution(4.0, 0))
        await asyncio.wait_for(services.aggregator.submitting.wait(), SECONDS)
    assert services.aggregator.left == []
    services.aggregator.may_answer.set()

    async def left() -> bool:
        return services.aggregator.left == [CLIENT]

    await eventually(left)
    assert len(services.aggregator.contributions) == 1


async def test_participant_leaves_with_its_last_socket_only(gateway: Running, services: Services) -> None:
    async with connect(f"{gateway.socket_url}/feai/fed/{CLIENT}") as first:
        await say(first, type=0)
        await hear(first)
        async with connect(f"{gateway.socket_url}/feai/fed/{CLIENT}") as second:
            await say(second, type=0)
            assert await hear(second) == {"type": 0}

        async def second_is_gone() -> bool:
            return gateway.counted("disco_gateway_sockets", scheme="federated", dialect="g21") == 1

        await eventually(second_is_gone)
        assert services.aggregator.left == []

    async def left() -> bool:
        return services.aggregator.left == [CLIENT]

    await eventually(left)
    # Two joins and a leave, all through this gateway: else the seat would be another gateway's by now.
    (through,) = set(services.aggregator.connections)
    assert (len(services.aggregator.connections), len(through)) == (3, 16)


async def test_many_readers_share_one_read_of_a_version(gateway: Running, services: Services) -> None:
    sockets = [await connect(f"{gateway.socket_url}/feai/fed/p{number}") for number in range(8)]
    for socket in sockets:
        await say(socket, type=0)
        await hear(socket)
        await say(socket, type=11)
    await services.aggregator.publish("fed", weights_of(2.0))
    assert {(await hear(socket))["round"] for socket in sockets} == {1}
    assert services.aggregator.reads == 1
    for socket in sockets:
        await socket.close()


async def test_draining_closes_with_a_code_that_says_to_come_back(gateway: Running, services: Services) -> None:
    async with connect(f"{gateway.socket_url}/feai/fed/{CLIENT}") as socket:
        await say(socket, type=0)
        await hear(socket)
        draining = asyncio.create_task(gateway.app.drain())
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(socket.recv(), SECONDS)
        await asyncio.wait_for(draining, SECONDS)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4000
    assert closed.value.rcvd.reason.startswith("SHUTDOWN: ")
    assert services.aggregator.left == [CLIENT]
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{gateway.socket_url}/feai/fed/{CLIENT}")
    assert refused.value.response.status_code == 503
