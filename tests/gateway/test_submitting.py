"""Contributions take the cheapest way that works, and another one where it does not."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.service_clients import ServiceClients
from gateway.submitting import Submitting
from rpc import handover as handover_module
from rpc.chunks import CHUNK_BYTES
from rpc.handover import STREAMED_FOR_S, Handover, opened
from tests.gateway.recorders import Services

SMALL = b"s" * 64
LARGE = b"l" * (CHUNK_BYTES + 4)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def handovers(tmp_path: Path) -> Iterator[tuple[Handover, Handover]]:
    with opened(tmp_path) as ours, opened(tmp_path) as theirs:
        assert ours is not None
        assert theirs is not None
        yield ours, theirs


async def submit(submitting: Submitting, weights: bytes) -> None:
    room = submitting.room(len(weights))
    room[:] = weights
    submitting.seal(room)
    receipt = await submitting.submit("fed", "a", round=3, weights=room)
    assert (receipt.task_id, receipt.round) == ("fed", 3)


def arrived(services: Services) -> list[tuple[bytes, int, bool]]:
    found = services.aggregator.contributions
    assert all(header.sha256 == hashlib.sha256(weights).digest() for header, weights in found)
    return [(weights, header.round, header.participant_id == "a") for header, weights in found]


async def test_small_weights_travel_in_one_message(services: Services, clients: ServiceClients, clock: Clock) -> None:
    await submit(Submitting(clients.aggregator(), None, clock=clock), SMALL)
    assert arrived(services) == [(SMALL, 3, True)]
    assert services.aggregator.streamed == services.aggregator.taken_from_files == 0


async def test_large_weights_are_handed_over_on_one_machine(
    services: Services, clients: ServiceClients, clock: Clock, handovers: tuple[Handover, Handover]
) -> None:
    ours, services.aggregator.handover = handovers
    await submit(Submitting(clients.aggregator(), ours, clock=clock), LARGE)
    assert arrived(services) == [(LARGE, 3, True)]
    assert (services.aggregator.streamed, services.aggregator.taken_from_files) == (0, 1)


async def test_large_weights_are_streamed_to_another_machine_and_files_tried_again_later(
    services: Services, clients: ServiceClients, clock: Clock, handovers: tuple[Handover, Handover]
) -> None:
    ours, theirs = handovers
    submitting = Submitting(clients.aggregator(), ours, clock=clock)
    await submit(submitting, LARGE)
    services.aggregator.handover = theirs
    await submit(submitting, LARGE)
    assert (services.aggregator.streamed, services.aggregator.taken_from_files) == (2, 0)
    clock.now += STREAMED_FOR_S
    await submit(submitting, LARGE)
    assert (services.aggregator.streamed, services.aggregator.taken_from_files) == (2, 1)
    assert arrived(services) == 3 * [(LARGE, 3, True)]


async def test_large_weights_are_streamed_where_no_room_is_left(
    services: Services,
    clients: ServiceClients,
    clock: Clock,
    handovers: tuple[Handover, Handover],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, services.aggregator.handover = handovers
    monkeypatch.setattr(handover_module, "LIMIT_BYTES", CHUNK_BYTES)
    await submit(Submitting(clients.aggregator(), ours, clock=clock), LARGE)
    assert (services.aggregator.streamed, services.aggregator.taken_from_files) == (1, 0)


async def test_weights_that_lie_elsewhere_are_streamed(
    services: Services, clients: ServiceClients, clock: Clock, handovers: tuple[Handover, Handover]
) -> None:
    ours, services.aggregator.handover = handovers
    await Submitting(clients.aggregator(), ours, clock=clock).submit("fed", "a", round=3, weights=LARGE)
    assert arrived(services) == [(LARGE, 3, True)]
    assert (services.aggregator.streamed, services.aggregator.taken_from_files) == (1, 0)


async def test_contribution_is_handed_over_again_while_the_service_is_away(
    services: Services, clients: ServiceClients, clock: Clock, handovers: tuple[Handover, Handover]
) -> None:
    ours, services.aggregator.handover = handovers
    await services.stop()
    submitting = asyncio.create_task(submit(Submitting(clients.aggregator(), ours, clock=clock), LARGE))
    await services.start()
    await submitting
    assert arrived(services) == [(LARGE, 3, True)]
