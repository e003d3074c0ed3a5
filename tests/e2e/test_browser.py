"""A real browser: the published client and TF.js in headless Chromium, beside participants that run in Node."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path

from tests.e2e.conftest import titanic_rows
from tests.e2e.real_clients import RealClient, require_chromium
from tests.e2e.system import System
from tests.e2e.test_federated_round import participants
from tests.e2e.test_peer_round import TASK as PEER_TASK
from tests.e2e.test_peer_round import assert_all_rounds_were_joint, peers
from tests.waiting import eventually


def in_browser(folder: Path, system: System, **options: object) -> RealClient:
    """A participant in Chromium, below the path prefix that says which generation it is."""
    rows = [[row[:-1], row[-1:]] for row in titanic_rows(7, 30)]
    settings = {"url": system.url + "v2.1/", "rows": rows, "roundDuration": 1, **options}
    return RealClient(folder, settings, script="browser_participant.cjs")


async def run_together(browser: RealClient, others: list[RealClient]) -> None:
    """A browser takes its time to start; without waiting for it the others would be done before it begins."""
    running = asyncio.create_task(browser.run())

    async def in_the_task() -> bool:
        return bool(browser.of("tasks"))

    await eventually(in_the_task, 60)
    await asyncio.gather(running, *(other.run() for other in others))


async def test_a_browser_and_two_node_clients_share_federated_rounds(
    system: System, real_client: Path, tmp_path: Path
) -> None:
    require_chromium()
    tfjs = system.url + "tfjs/titanic/model.json"
    browser = in_browser(real_client, system, task="titanic", scheme="federated", epochs=4, tfjs=tfjs)
    others = participants(real_client, system.url, tmp_path, count=2)
    initial = system.record("titanic")["initial_digest"]
    await run_together(browser, others)

    loaded = base64.b64decode(browser.of("tfjs")[0]["weights"])
    versions = system.ledger("titanic")
    assert hashlib.sha256(loaded).hexdigest() in {initial, *(entry["digest"] for entry in versions)}
    rounds = browser.of("round")
    assert len(rounds) == 4
    sent = {hashlib.sha256(base64.b64decode(one["sentWeights"])).hexdigest() for one in rounds}
    counted = {line["digest"] for entry in versions for line in entry["contributions"]}
    assert len(sent & counted) >= len(sent) - 1  # the last one may wait in a round that has too few
    received = {hashlib.sha256(base64.b64decode(one["receivedWeights"])).hexdigest() for one in rounds}
    assert received & {entry["digest"] for entry in versions}


async def test_a_browser_and_two_node_clients_exchange_weights_over_webrtc(
    system: System, real_client: Path, tmp_path: Path
) -> None:
    require_chromium()
    await RealClient(real_client, {}, script="push_task.cjs", arguments=[system.url, PEER_TASK]).run()
    browser = in_browser(real_client, system, task=PEER_TASK, scheme="decentralized", epochs=3, secure=False)
    nodes = peers(real_client, system.url, tmp_path, secure=False)[:2]
    browser.options["meets"], browser.meeting = True, nodes[0].meeting
    await asyncio.gather(*(client.run() for client in (browser, *nodes)))
    assert_all_rounds_were_joint([browser, *nodes], secure=False)
