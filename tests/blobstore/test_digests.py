from __future__ import annotations

from pathlib import Path

from blobstore.digests import is_lost
from blobstore.directory import DirectoryBlobStore


async def test_bytes_that_are_others_each_time_are_not_lost(tmp_path: Path) -> None:
    class Trembling(DirectoryBlobStore):
        reads = 0

        async def read_chunks(self, name: str, *, chunk_size: int):  # type: ignore[no-untyped-def]
            self.reads += 1
            yield str(self.reads).encode()

    store = Trembling(tmp_path)
    assert not await is_lost(store, "blob", "5d" * 32)
    assert await is_lost(DirectoryBlobStore(tmp_path), "blob", "5d" * 32)
