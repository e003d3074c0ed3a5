"""Versions as sockets send them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from gateway.dialects.messages import Latest, Welcome
from gateway.dialects.registry import DIALECTS
from gateway.service_clients import ServiceClients
from gateway.settings import GatewaySettings
from gateway.versions import Versions
from learning.refusals import StoreUnavailable, TooLarge
from tests.gateway.recorders import Services, weights_of

G21 = DIALECTS["g21"]


@pytest_asyncio.fixture
async def clients(settings: GatewaySettings) -> AsyncIterator[ServiceClients]:
    opened = ServiceClients.open(settings)
    yield opened
    await opened.close()


@pytest.fixture
def versions(clients: ServiceClients) -> Versions:
    return Versions(clients.aggregator(), limit_bytes=1 << 20, clock=time.monotonic)


async def test_version_is_read_and_encoded_once(versions: Versions, services: Services) -> None:
    number, body = await versions.encoded("fed", 0, G21, seconds=5)
    assert (number, body) == (0, G21.encode_weights(weights_of(0), ((2, 2), (2,))))
    assert (await versions.encoded("fed", 0, G21, seconds=5))[1] is body
    assert services.aggregator.reads == 1


async def test_version_that_is_no_longer_kept_is_answered_with_the_newest(
    versions: Versions, services: Services
) -> None:
    assert (await versions.encoded("fed", 7, G21, seconds=5))[0] == 0
    assert services.aggregator.reads == 2


async def test_known_version_is_answered_while_nobody_can_be_asked(versions: Versions, services: Services) -> None:
    known = await versions.encoded("fed", 0, G21, seconds=5)
    await services.stop()
    assert await versions.encoded("fed", 1, G21, seconds=0.1) == known
    with pytest.raises((StoreUnavailable, TimeoutError)):
        await versions.encoded("dec", 0, G21, seconds=0.1)
    await services.start()


async def test_version_over_the_limit_is_not_held(clients: ServiceClients) -> None:
    with pytest.raises(TooLarge):
        await Versions(clients.aggregator(), limit_bytes=8, clock=time.monotonic).encoded("fed", 0, G21, seconds=5)


async def test_frames_of_the_newest_version_are_the_same_bytes_for_everybody(versions: Versions) -> None:
    _, body = await versions.encoded("fed", 0, G21, seconds=5)
    frame = versions.frame("fed", G21, Latest(3, body))
    assert versions.frame("fed", G21, Latest(3, body)) is frame
    assert msgspec.msgpack.decode(versions.frame("fed", G21, Latest(4, body)))["round"] == 4
    assert versions.frame("fed", G21, Welcome("me")) == G21.encode(Welcome("me"))
    versions.forget("fed")
    assert versions.frame("fed", G21, Latest(3, body)) == frame
    assert versions.frame("fed", G21, Latest(3, body)) is not frame
