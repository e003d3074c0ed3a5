"""Aggregators that share a bucket instead of a directory make the same bytes, and stand a network that fails."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from blobstore import records
from blobstore.directory import DirectoryBlobStore
from blobstore.object_storage import ObjectBlobStore
from blobstore.store import BlobStore
from learning.policy import Policy
from learning.refusals import StoreUnavailable
from roundstore.memory_store import MemoryRoundStore
from rpc.channel import retrying
from tests.blobstore.weak_link import between
from tests.s3_process import BUCKET, S3Process
from tests.services.aggregator.room import BASE, TASK, Member, Room, exact_mean, octets, weights_of

PARTICIPANTS, ROUNDS = 12, 2
POLICY = Policy(
    min_participants=PARTICIPANTS, quorum_share=None, quorum_count=PARTICIPANTS, deadline_s=600, staleness_weights=(1,)
)


def in_bucket(endpoint: str, folder: str, **options: float) -> ObjectBlobStore:
    return ObjectBlobStore(
        BUCKET, folder, endpoint=endpoint, access_key_id="key", secret_access_key="secret", **options
    )


@asynccontextmanager
async def replicas(stores: Sequence[BlobStore]) -> AsyncIterator[list[Member]]:
    """One on each of the stores, as on hosts of their own."""
    rooms = [Room(MemoryRoundStore(), stores[0])]
    rooms += [replace(rooms[0], blobs=blobs) for blobs in stores[1:]]
    await rooms[0].add_task(POLICY)
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(room.member()) for room in rooms]


async def contribute(members: Sequence[Member], number: int) -> None:
    """All participants of a round, by turns at each replica, and elsewhere where one fails."""
    replica = itertools.cycle(members)
    await asyncio.gather(
        *(
            retrying(
                lambda seed=seed: next(replica).submit(f"p{seed}", contribution(number, seed), round=number), seconds=30
            )
            for seed in range(PARTICIPANTS)
        )
    )
    await members[0].reaches(number + 1)


def contribution(number: int, seed: int) -> bytes:
    return weights_of(100 * number + seed)


def promised(number: int) -> bytes:
    """The weights of version `number`."""
    if number == 0:
        return octets(BASE)
    return exact_mean(promised(number - 1), [(contribution(number - 1, seed), 1) for seed in range(PARTICIPANTS)])


async def kept(blobs: BlobStore) -> dict[str, bytes]:
    """Every version's weights and ledger, without what differs from run to run: who arrived when, and how far."""
    entries = [await records.read_ledger_entry(blobs, TASK, number) for number in range(ROUNDS + 1)]
    return {entry.digest: await records.read_weights(blobs, TASK, entry) for entry in entries}


async def test_two_replicas_on_a_bucket_make_the_bytes_that_two_on_a_directory_make(
    s3_server: S3Process, tmp_path: Path
) -> None:
    versions = []
    buckets = [in_bucket(s3_server.endpoint, "same-bytes") for _ in range(2)]
    async with DirectoryBlobStore(tmp_path) as one, DirectoryBlobStore(tmp_path) as two:
        for stores in (buckets, [one, two]):
            async with asyncio.timeout(60), replicas(stores) as members:
                for number in range(ROUNDS):
                    await contribute(members, number)
                    assert [await member.version() for member in members] == [(number + 1, promised(number + 1))] * 2
            versions.append(await kept(stores[0]))
        assert versions[0] == versions[1]
        assert list(versions[0].values()) == [promised(number) for number in range(ROUNDS + 1)]
        assert await buckets[0].list("tasks") == await one.list("tasks")


async def test_a_round_goes_on_where_the_network_to_the_bucket_fails_meanwhile(s3_server: S3Process) -> None:
    # What should happen: contributions that one replica cannot store are refused there and counted by the other.
    # What should not happen: a write that arrives late changes what was committed since.
    async with between(s3_server.port) as link:
        weak = in_bucket(link.endpoint, "weak", patience_s=0.5)
        sound = in_bucket(s3_server.endpoint, "weak")
        async with asyncio.timeout(60), replicas([sound, weak]) as members:
            await contribute(members, 0)
            link.lets_requests_through.clear()
            with pytest.raises(StoreUnavailable):
                await members[1].submit("p0", contribution(1, 0), round=1)
            link.lets_requests_through.set()
            await contribute(members, 1)
            assert [await member.version() for member in members] == [(2, promised(2))] * 2
