"""kill -9 of every process while published clients train: what was acknowledged is counted once; training goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.e2e.recording_proxy import RecordingProxy
from tests.e2e.system import System
from tests.e2e.test_federated_round import EPOCHS, TASK, assert_every_version_is_the_exact_mean, participants
from tests.waiting import eventually


@pytest.mark.parametrize("victim", ["aggregator", "task_service", "signaling", "redis"])
async def test_clients_finish_and_every_version_stays_exact_when_a_process_is_killed(
    system: System, real_client: Path, tmp_path: Path, victim: str
) -> None:
    # What should happen:
    # 1. the killed process is replaced; the clients keep their sockets and finish
    # 2. every version is the exact mean of its round, before and after
    # What should not happen:
    # - a contribution that is counted twice
    async with RecordingProxy(system.port) as proxy:
        clients = participants(real_client, proxy.url, tmp_path)
        running = asyncio.gather(*(client.run() for client in clients))

        async def training() -> bool:
            return len(system.ledger(TASK)) >= 2

        await eventually(training, 120)
        await system.kill(victim)
        await running
    for client in clients:
        assert len(client.of("round")) == 2 * EPOCHS
        assert client.of("done")
    sent = proxy.contributions()
    counted = assert_every_version_is_the_exact_mean(system, sent)
    # A participant may finish while the others still wait, and leave a contribution in a round that has too few.
    assert counted >= len(sent) - 2


async def test_a_killed_gateway_costs_its_sockets_and_no_contribution(
    system: System, real_client: Path, tmp_path: Path
) -> None:
    async with RecordingProxy(system.port) as proxy:
        clients = participants(real_client, proxy.url, tmp_path)
        running = [asyncio.create_task(client.run()) for client in clients]

        async def training() -> bool:
            return len(system.ledger(TASK)) >= 2

        await eventually(training, 120)
        await system.kill("gateway")
        # No published client connects again: each of them ends with an error of its own.
        await asyncio.gather(*running, return_exceptions=True)
        trained = system.ledger(TASK)
        await eventually(system.is_ready, 60)
        again = participants(real_client, proxy.url, tmp_path, count=2)
        await asyncio.gather(*(client.run() for client in again))
    assert_every_version_is_the_exact_mean(system, proxy.contributions())
    assert len(system.ledger(TASK)) > len(trained)


async def test_power_loss_costs_nothing_that_was_published(system: System, real_client: Path, tmp_path: Path) -> None:
    async with RecordingProxy(system.port) as proxy:
        clients = participants(real_client, proxy.url, tmp_path)
        running = [asyncio.create_task(client.run()) for client in clients]

        async def training() -> bool:
            return len(system.ledger(TASK)) >= 2

        await eventually(training, 120)
        system.kill_everything()
        await asyncio.gather(*running, return_exceptions=True)
        before = system.ledger(TASK)
        await system.start()
        served = await system.get(f"tasks/{TASK}/weights.bin")
        assert served == (200, system.weights(TASK, system.ledger(TASK)[-1]["digest"]))
        again = participants(real_client, proxy.url, tmp_path, count=2)
        await asyncio.gather(*(client.run() for client in again))
    after = system.ledger(TASK)
    assert after[: len(before)] == before
    assert len(after) > len(before)
    assert_every_version_is_the_exact_mean(system, proxy.contributions())
