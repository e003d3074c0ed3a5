"""New versions come with the news of them, from the replica that made them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from disco.aggregator.v1 import aggregator_service_pb2 as messages

from blobstore import names
from learning.policy import Policy
from roundstore.redis_store import RedisRoundStore
from rpc.handover import opened
from services.aggregator import deliveries, servicer
from tests.services.aggregator import room as rooms
from tests.services.aggregator.room import BASE, SPECS, TASK, Member, exact_mean, octets, weights_of

A, B = weights_of(0), weights_of(1)
EACH_ROUND_OF_ONE = Policy(min_participants=1, quorum_share=None, quorum_count=1, deadline_s=60, staleness_weights=(1,))


@asynccontextmanager
async def watched(member: Member, **fields: Any) -> AsyncIterator[AsyncIterator[messages.WatchRoundsResponse]]:
    """What a watcher is told, one round each."""
    stream = member.stub.WatchRounds(messages.WatchRoundsRequest(task_id=TASK, **fields))
    try:
        yield aiter(stream)
    finally:
        stream.cancel()


async def news_of(watch: AsyncIterator[messages.WatchRoundsResponse], number: int) -> messages.WatchRoundsResponse:
    """The first message that names this round."""
    async for message in watch:
        if message.round.number == number:
            return message
    raise AssertionError("the stream ended")


async def test_new_version_comes_with_the_first_news_of_its_round(store: RedisRoundStore, tmp_path: Path) -> None:
    async with (
        rooms.opened(store, tmp_path, EACH_ROUND_OF_ONE) as room,
        room.member() as member,
        watched(member, takes_versions=True) as watch,
    ):
        assert not (await news_of(watch, 0)).HasField("new_version")  # nobody has made it here
        for number, weights in ((1, A), (2, B)):
            await member.submit("a", weights, round=number - 1)
            version = (await news_of(watch, number)).new_version
            assert version.octets == exact_mean(octets(BASE) if number == 1 else A, [(weights, 1)])
            assert version.header == messages.ReadVersionResponse.Header(
                version=number,
                weight_specs=[{"name": spec.name, "shape": spec.shape} for spec in SPECS],
                weights_size=len(weights),
                sha256=hashlib.sha256(version.octets).digest(),
            )
            assert await member.version(number) == (number, version.octets)
        await member.join("b")
        later = await anext(watch)
        assert (later.round.number, later.round.participants) == (2, 1)
        assert not later.HasField("new_version")


async def test_who_does_not_take_versions_and_who_watches_elsewhere_gets_the_news_alone(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servicer, "WATCH_AGAIN_S", 0.1)  # a replica that does not attend hears of nothing
    async with (
        rooms.opened(store, tmp_path, EACH_ROUND_OF_ONE) as room,
        room.member() as maker,
        room.member(attending=False) as other,
        watched(maker) as watch,
        watched(other, takes_versions=True) as elsewhere,
    ):
        await maker.submit("a", A)
        assert not (await news_of(watch, 1)).HasField("new_version")
        assert not (await news_of(elsewhere, 1)).HasField("new_version")
        assert await other.version(1) == await maker.version(1)


async def test_version_that_was_lost_and_made_anew_is_not_brought_as_it_was(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    """What should happen: the version of the ledger comes, or none. The one that the replica had in memory was lost,
    and its number was given again, to one that another replica made of another contribution."""
    async with (
        rooms.opened(store, tmp_path, EACH_ROUND_OF_ONE) as room,
        room.member() as member,
        room.member() as other,
    ):
        await member.submit("a", A)
        await member.reaches(1)
        lost = await member.version(1)
        status = await room.status()
        await room.blobs.delete(names.ledger_entry(TASK, 1))
        again = await store.lose_version(TASK, epoch=status.epoch, number=1)
        assert again.number == 0
        await other.submit("b", B)
        await other.reaches(1)
        assert (made := await other.version(1)) != lost
        async with watched(member, takes_versions=True) as watch:
            version = (await news_of(watch, 1)).new_version
            assert version.octets in (b"", made[1])


async def test_large_version_is_brought_in_a_file_to_who_takes_that(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "CHUNK_BYTES", 8)
    folder = tmp_path / "handover"
    folder.mkdir()
    async with AsyncExitStack() as stack:
        own, caller = stack.enter_context(opened(folder)), stack.enter_context(opened(folder))
        assert caller is not None
        room = await stack.enter_async_context(rooms.opened(store, tmp_path / "blobs", EACH_ROUND_OF_ONE))
        member = await stack.enter_async_context(room.member(handover=own))
        watch = await stack.enter_async_context(watched(member, takes_versions=True, takes_handover=True))
        streaming = await stack.enter_async_context(watched(member, takes_versions=True))
        for number, weights in ((1, A), (2, B), (3, A)):
            await member.submit("a", weights, round=number - 1)
            brought = (await news_of(watch, number)).new_version
            read = bytes(caller.taken(brought.handed_over))
            assert hashlib.sha256(read).digest() == brought.header.sha256
            assert await member.version(number) == (number, read)
            assert not (await news_of(streaming, number)).HasField("new_version")
