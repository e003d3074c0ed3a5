"""Versions as sockets send them."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import msgspec
import pytest
from disco.aggregator.v1.aggregator_service_pb2 import NewVersion

from gateway import versions as versions_module
from gateway.dialects.messages import Latest, Welcome
from gateway.dialects.registry import DIALECTS
from gateway.service_clients import ServiceClients
from gateway.versions import Versions
from learning.refusals import StoreUnavailable, TooLarge
from rpc.handover import Handover, opened
from tests.gateway.recorders import Services, weights_of

G21 = DIALECTS["g21"]


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


def encoded(weights: bytes) -> bytes:
    return bytes(G21.encode_weights(weights, ((2, 2), (2,))))


async def test_version_that_was_brought_is_not_read(versions: Versions, services: Services) -> None:
    await services.aggregator.publish("fed", weights_of(1.0))
    versions.bring("fed", services.aggregator.new_version("fed", 1))
    assert await versions.encoded("fed", 1, G21, seconds=5) == (1, encoded(weights_of(1.0)))
    assert services.aggregator.reads == 0
    assert await versions.encoded("fed", 0, G21, seconds=5) == (0, encoded(weights_of(0)))  # another one than that
    assert services.aggregator.reads == 1


async def test_version_that_was_brought_damaged_or_is_too_large_is_read(
    versions: Versions, services: Services, clients: ServiceClients
) -> None:
    whole = services.aggregator.new_version("fed", 0)
    flipped = NewVersion(header=whole.header, octets=whole.octets[:-1] + b"\x01")
    longer = NewVersion(header=whole.header, octets=whole.octets + bytes(4))
    longer.header.sha256 = hashlib.sha256(longer.octets).digest()
    damaged = {"g21": flipped, "g22": longer, "g30": NewVersion(header=whole.header)}
    for reads, (dialect, brought) in enumerate(damaged.items(), start=1):
        versions.bring("fed", brought)
        assert (await versions.encoded("fed", 0, DIALECTS[dialect], seconds=5))[0] == 0
        assert services.aggregator.reads == reads
    narrow = Versions(clients.aggregator(), limit_bytes=8, clock=time.monotonic)
    narrow.bring("fed", whole)
    with pytest.raises(TooLarge):
        await narrow.encoded("fed", 0, G21, seconds=5)


async def test_version_whose_file_is_gone_is_read_and_files_are_taken_all_the_same(
    clients: ServiceClients, services: Services, tmp_path: Path
) -> None:
    with opened(tmp_path) as ours, opened(tmp_path) as theirs:
        assert theirs is not None
        versions = Versions(clients.aggregator(), ours, limit_bytes=1 << 20, clock=time.monotonic)
        await services.aggregator.publish("fed", weights_of(1.0))
        await services.aggregator.publish("fed", weights_of(2.0))
        first, second = (services.aggregator.new_version("fed", number) for number in (1, 2))
        room = hand_over(first, theirs)
        versions.bring("fed", first)
        assert (await versions.encoded("fed", 1, G21, seconds=5)) == (1, encoded(weights_of(1.0)))
        assert services.aggregator.reads == 0
        del room
        used_again = hand_over(second, theirs)
        lost = NewVersion(header=second.header, handed_over=first.handed_over)
        versions.bring("fed", lost)
        assert (await versions.encoded("fed", 2, G21, seconds=5)) == (2, encoded(weights_of(2.0)))
        assert services.aggregator.handovers_asked == [True]
        del used_again


def hand_over(version: NewVersion, owner: Handover) -> memoryview:
    """Puts the weights of a version into a file, which lasts as long as its room."""
    room = owner.room(len(version.octets))
    assert room is not None
    version.handed_over.CopyFrom(owner.filled(room, version.octets))
    return room


async def test_versions_that_were_brought_are_kept_within_a_bound(
    services: Services, monkeypatch: pytest.MonkeyPatch, clients: ServiceClients
) -> None:
    monkeypatch.setattr(versions_module, "BROUGHT_BYTES", 3 * services.aggregator.new_version("fed", 0).ByteSize() // 2)
    versions = Versions(clients.aggregator(), limit_bytes=1 << 20, clock=time.monotonic)
    await services.aggregator.publish("fed", weights_of(1.0))
    for number in (0, 1):
        versions.bring("fed", services.aggregator.new_version("fed", number))
    assert await versions.encoded("fed", 1, G21, seconds=5) == (1, encoded(weights_of(1.0)))
    assert services.aggregator.reads == 0
    await versions.encoded("fed", 0, G21, seconds=5)
    assert services.aggregator.reads == 1
