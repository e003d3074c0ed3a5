"""Three published clients exchange weights over real WebRTC; the server only introduces them."""

from __future__ import annotations

import asyncio
import base64
import re
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import titanic_rows, write_csv
from tests.e2e.real_clients import Meeting, RealClient
from tests.e2e.recording_proxy import RecordingProxy
from tests.e2e.system import System

TASK = "titanic-among-peers"
ROUNDS = 3


@pytest.mark.parametrize("secure", [False, True], ids=["clear", "secure"])
async def test_three_published_peers_finish_every_round_together(
    system: System, real_client: Path, tmp_path: Path, secure: bool
) -> None:
    # What should happen:
    # 1. in each round everybody gets the other two as peers
    # 2. everybody ends the round with the same weights, which nobody had sent
    # What should not happen:
    # - a peer that goes on alone (the client does that when it waits longer than 10 seconds)
    pusher = RealClient(real_client, {}, script="push_task.cjs", arguments=[system.url, TASK])
    (pushed,) = await pusher.run()
    assert pushed["event"] == "pushed", pushed
    assert system.record(TASK)["initial_digest"] == pushed["digest"]
    assert system.record(TASK)["task"]["pinned_dialect"] == "g21"

    clients = peers(real_client, system.url, tmp_path, secure=secure)
    await asyncio.gather(*(client.run() for client in clients))
    assert_all_rounds_were_joint(clients, secure=secure)


async def test_peers_that_show_no_sign_of_their_generation_finish_rounds_of_a_task_that_their_like_created(
    real_client: Path, tmp_path: Path
) -> None:
    """As in browsers: no prefix, and no axios named. Nothing is remembered, and models are those of 2.2 by default."""
    system = System(tmp_path / "data", {"DISCO_DIALECT_MEMORY_S": "0"})
    await system.start()
    try:
        (pushed,) = await RealClient(real_client, {}, script="push_task.cjs", arguments=[system.url, TASK]).run()
        assert pushed["event"] == "pushed", pushed
        async with RecordingProxy(
            system.port, hides=(b"User-Agent: axios/0.27.2", b"User-Agent: Mozilla/5.00")
        ) as proxy:
            clients = peers(real_client, proxy.url, tmp_path, secure=False)
            await asyncio.gather(*(client.run() for client in clients))
        assert_all_rounds_were_joint(clients, secure=False)
        rules = re.findall(r"socket\.opened.*\brule\S*=\S*?(\w+)", re.sub(r"\x1b\[\d+m", "", system.output()))
        assert rules == ["pin"] * 3
    finally:
        await system.stop()


def peers(folder: Path, url: str, tmp_path: Path, *, secure: bool) -> list[RealClient]:
    """30 rows are one batch, a round is one batch, an epoch is one round. They meet each other."""
    meeting = Meeting(3)
    return [
        RealClient(
            folder,
            {
                "url": url,
                "task": TASK,
                "scheme": "decentralized",
                "secure": secure,
                "csv": str(write_csv(tmp_path / f"rows-{number}.csv", titanic_rows(number, 30))),
                "epochs": ROUNDS,
                "roundDuration": 1,
                "meets": True,
            },
            meeting=meeting,
        )
        for number in range(3)
    ]


def assert_all_rounds_were_joint(clients: list[RealClient], *, secure: bool) -> None:
    ids = sorted(client.of("round")[0]["id"] for client in clients)
    assert len(set(ids)) == 3
    for number in range(ROUNDS):
        ends = [client.of("round")[number] for client in clients]
        for end in ends:
            assert end["peers"] == [other for other in ids if other != end["id"]]
        mean = np.mean([float32(end["sentWeights"]) for end in ends], axis=0, dtype=np.float64)
        for end in ends:
            # Clear: three float32 numbers are added, in an order that differs from peer to peer. Secure: so are random
            # shares of up to ±100, whose rounding errors stay when the shares cancel out.
            np.testing.assert_allclose(float32(end["receivedWeights"]), mean, rtol=0, atol=2e-4 if secure else 1e-5)


def float32(encoded: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(encoded), "<f4")
