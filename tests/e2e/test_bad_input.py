"""Strangers misbehave in every way we could think of while published clients train; nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import pytest_asyncio
import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.e2e.recording_proxy import RecordingProxy
from tests.e2e.system import System
from tests.e2e.test_federated_round import (
    EPOCHS,
    TASK,
    assert_every_version_is_the_exact_mean,
    participants,
)
from tests.waiting import eventually

SHAPES = ((5, 124), (124,), (124, 64), (64,), (64, 32), (32,), (32, 1), (1,))
LIMIT = 4 << 20


def frame(message: object) -> bytes:
    return msgspec.msgpack.encode(message)


def contribution(value: float, *, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> bytes:
    """A postWeightsToServer message in which every weight is `value`."""
    tensors = [{"shape": list(shape), "data": [value] * math.prod(shape)} for shape in shapes]
    return frame({"type": 8, "weights": list(frame(tensors)), "round": 0})


BAD_FRAMES: dict[str, bytes | str] = {
    "bytes that are no msgpack": b"\xc1\xff\x00garbage",
    "an empty frame": b"",
    "a text frame": "hello",
    "a list": frame([1, 2, 3]),
    "no type": frame({"round": 0}),
    "a type that nobody knows": frame({"type": 99}),
    "a type of another generation": frame({"type": 12}),
    "weights that are a number": frame({"type": 8, "weights": 7, "round": 0}),
    "weights that are missing": frame({"type": 8, "round": 0}),
    "weights whose bytes are no document": frame({"type": 8, "weights": [1, 2, 300], "round": 0}),
    "a round that is text": frame({"type": 8, "weights": list(frame([])), "round": "now"}),
    "an array that says it holds four billion items": b"\x82\xa4type\x08\xa7weights\xdd\xff\xff\xff\xff",
    "a thousand nested lists": b"\x91" * 1000 + b"\xc0",
    "not a number": contribution(math.nan),
    "infinity": contribution(math.inf),
    "a weight beyond the bound": contribution(1e30),
    "a tensor too few": contribution(0.5, shapes=SHAPES[:-1]),
    "a tensor that is turned": contribution(0.5, shapes=((124, 5), *SHAPES[1:])),
}


async def misbehave(system: System, name: str) -> None:
    """One bad frame, and after it a question that must be answered on the same socket."""
    address = f"{system.url.replace('http', 'ws')}feai/{TASK}/{uuid.uuid4()}/"
    async with asyncio.timeout(60), websockets.connect(address, compression=None) as socket:
        await socket.send(frame({"type": 0}))
        assert msgspec.msgpack.decode(await socket.recv()) == {"type": 0}
        await socket.send(BAD_FRAMES[name])
        await socket.send(frame({"type": 13}))
        answer = msgspec.msgpack.decode(await socket.recv())
        assert answer["type"] == 13, f"after {name}"


async def vanish_in_the_middle(system: System) -> None:
    """The head of a frame of a million bytes, a few of them, and then nothing, not even a goodbye."""
    reader, writer = await asyncio.open_connection("127.0.0.1", system.port)
    writer.write(
        f"GET /feai/{TASK}/{uuid.uuid4()} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert b"101" in await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x82\xff" + (10**6).to_bytes(8, "big") + b"mask" + b"a few bytes")
    await writer.drain()
    writer.transport.abort()


async def send_too_much(system: System) -> None:
    address = f"{system.url.replace('http', 'ws')}feai/{TASK}/{uuid.uuid4()}"
    # Not as a context: leaving one whose transport has just ended fails inside asyncio now and then (Python 3.11).
    socket = await websockets.connect(address, compression=None)
    with contextlib.suppress(ConnectionClosed):  # the server may hang up before all of it is sent
        await socket.send(bytes(LIMIT + 1))
    with pytest.raises(ConnectionClosed):
        await socket.recv()
    assert socket.close_code == 1009
    await socket.wait_closed()


@pytest_asyncio.fixture
async def limited_system(tmp_path: Path) -> AsyncIterator[System]:
    """The whole system with a size limit that a test can exceed."""
    settings = {"DISCO_MAX_MESSAGE_BYTES": str(LIMIT), "DISCO_DEFAULT_TASKS": "titanic"}
    running = System(tmp_path / "data", settings)
    await running.start()
    yield running
    await running.stop()


async def test_no_stranger_costs_three_training_clients_anything(
    limited_system: System, real_client: Path, tmp_path: Path
) -> None:
    # What should happen:
    # 1. every bad frame costs its sender that message; the next question on the same socket is answered
    # 2. the published clients finish all rounds, and every version is the exact mean of good contributions
    # What should not happen:
    # - a process that dies, or a version with anything of a stranger's in it
    system = limited_system
    before = system.children()
    async with RecordingProxy(system.port) as proxy:
        clients = participants(real_client, proxy.url, tmp_path)
        running = asyncio.gather(*(client.run() for client in clients))

        async def training() -> bool:
            return len(system.ledger(TASK)) >= 1

        await eventually(training, 120)
        for name in BAD_FRAMES:
            await misbehave(system, name)
        await vanish_in_the_middle(system)
        await send_too_much(system)
        await running
    assert system.children() == before
    for client in clients:
        assert len(client.of("round")) == 2 * EPOCHS
    assert_every_version_is_the_exact_mean(system, proxy.contributions())
    newest = np.frombuffer((await system.get(f"tasks/{TASK}/weights.bin"))[1], "<f4")
    assert np.isfinite(newest).all()
    assert np.abs(newest).max() < 1e3


REASONS = {
    "weights that are a number": "MALFORMED_MESSAGE",
    "weights whose bytes are no document": "MALFORMED_MESSAGE",
    "weights that are missing": "MALFORMED_MESSAGE",
    "not a number": "WEIGHTS_NOT_FINITE",
    "infinity": "WEIGHTS_NOT_FINITE",
    "a weight beyond the bound": "WEIGHTS_OUT_OF_BOUND",
    "a tensor too few": "INVALID_WEIGHTS",
    "a tensor that is turned": "INVALID_WEIGHTS",
}
"""Of the bad frames, those that are contributions: why they are refused."""


async def test_every_contribution_that_was_refused_stands_in_the_list_of_its_task(limited_system: System) -> None:
    system = limited_system
    for name in BAD_FRAMES:
        await misbehave(system, name)
    found: list[dict[str, Any]] = []

    async def all_are_listed() -> bool:
        status, body = await system.get(f"tasks/{TASK}/refusals")
        assert status == 200
        found[:] = msgspec.json.decode(body)["refusals"]
        return len(found) >= len(REASONS)

    await eventually(all_are_listed, 30)
    assert sorted(refusal["reason"] for refusal in found) == sorted(REASONS.values())
    for refusal in found:
        assert refusal["sentence"]
        assert len(refusal["sha256"]) == (64 if refusal["reason"] == "WEIGHTS_OUT_OF_BOUND" else 0)


async def test_unknown_tasks_and_bad_ids_are_refused_on_the_upgrade(system: System) -> None:
    base = system.url.replace("http", "ws")
    for path in (f"feai/nothing/{uuid.uuid4()}", "deai/nothing", "feai/../titanic/x", f"feai/%00/{uuid.uuid4()}"):
        with pytest.raises(InvalidStatus) as refused:
            async with websockets.connect(base + path):
                pass
        assert refused.value.response.status_code == 404, path
