"""The blob store of the simulator keeps the promises of the real ones, and breaks off where they may."""

from __future__ import annotations

import asyncio

import pytest

from tests.blobstore.store_contract import BlobStoreContract
from tests.simulation.memory_blobs import MemoryBlobStore


class TestMemoryBlobStore(BlobStoreContract):
    @pytest.fixture
    def store(self) -> MemoryBlobStore:
        return MemoryBlobStore()

    @pytest.fixture
    def other(self, store: MemoryBlobStore) -> MemoryBlobStore:
        return store


async def test_a_writer_who_dies_leaves_a_torn_slot_and_a_whole_blob() -> None:
    blobs = MemoryBlobStore()
    for write, left in ((blobs.write, b"old bytes"), (blobs.write_slot, b"NEW bytes")):
        await write("blob", [b"old bytes"])
        writing = asyncio.ensure_future(write("blob", [b"NEW BYTES"]))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing])
        assert await blobs.read("blob") == left
