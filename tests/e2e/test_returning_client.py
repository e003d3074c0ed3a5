"""A client whose gateway was killed comes back with its id: it has its seat, and what it had sent is counted once."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tests.e2e.raw_clients import G21Participant, RawSocket, lite_document
from tests.e2e.system import System
from tests.waiting import eventually

TASK = "titanic"


async def test_client_that_comes_back_after_its_gateway_was_killed_has_its_seat_and_is_counted_once(
    system: System,
) -> None:
    # What should happen:
    # 1. "a" contributes, its gateway dies, it comes back under its id and sends the same weights again
    # 2. the round has one participant and one contribution, and closes when "b" contributes
    # What should not happen:
    # - a second seat for "a", or a second place for its weights
    record = json.loads((await system.get(f"tfjs/{TASK}/model.json"))[1])
    shapes = tuple(tuple(spec["shape"]) for spec in record["weightsManifest"][0]["weights"])
    weights = np.random.default_rng(1).normal(size=sum(int(np.prod(shape)) for shape in shapes)).astype("<f4")

    async def contribute(client: str) -> RawSocket:
        socket = RawSocket(f"ws://127.0.0.1:{system.port}/feai/{TASK}/{client}", G21Participant.knows)
        await socket.open()
        await socket.say(type=0)
        await socket.hear_type(0, 10)
        await socket.say(type=8, weights=lite_document(weights, shapes), round=0)
        return socket

    async def counts(**expected: int) -> bool:
        status, body = await system.get(f"tasks/{TASK}/round")
        now: dict[str, Any] = json.loads(body) if status == 200 else {}
        return all(now.get(name) == value for name, value in expected.items())

    await contribute("a")
    await eventually(lambda: counts(participants=1, contributions=1), 20)
    await system.kill("gateway")
    await eventually(system.is_ready, 60)
    again = await contribute("a")
    await again.say(type=13)
    assert (await again.hear_type(13, 10))["type"] == 13  # its contribution has been answered by now
    assert await counts(participants=1, contributions=1)
    other = await contribute("b")
    await eventually(lambda: counts(number=1), 20)
    (entry,) = system.ledger(TASK)
    assert sorted(line["participant_id"] for line in entry["contributions"]) == ["a", "b"]
    assert len({line["digest"] for line in entry["contributions"]}) == 1
    await again.close()
    await other.close()
