"""Blobs in memory, with what may lie in a slot when its writer dies. Knows no disk.

`pause` is awaited in the middle of everything, so that others can come in between.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from blobstore.store import BlobExists, BlobMissing, Buffer, parts_of


async def _yield() -> None:
    await asyncio.sleep(0)


def half_and_half(before: bytes, after: bytes) -> bytes:
    """The new beginning on the old end."""
    middle = len(after) // 3
    return after[:middle] + before[middle:]


class MemoryBlobStore:
    """Keeps blobs for one event loop. `torn` tells what of two contents a slot holds while it is being written."""

    def __init__(
        self,
        *,
        pause: Callable[[], Awaitable[None]] = _yield,
        torn: Callable[[bytes, bytes], bytes] = half_and_half,
    ) -> None:
        self._blobs: dict[str, bytes] = {}
        self._pause = pause
        self._torn = torn

    async def write(self, name: str, parts: Sequence[Buffer], *, replace: bool = True) -> None:
        parts_of(name)
        data = _joined(parts)
        await self._pause()
        if name in self._blobs and not replace:
            raise BlobExists(name)
        self._blobs[name] = data

    async def keep(self, name: str, parts: Sequence[Buffer], *, digest: str) -> None:
        try:
            await self.write(name, parts, replace=False)
        except BlobExists:
            if hashlib.sha256(self._found(name)).hexdigest() != digest:
                await self.write(name, parts)

    @asynccontextmanager
    async def staged(self) -> AsyncIterator[StagedBytes]:
        yield StagedBytes(self)

    async def write_slot(self, name: str, parts: Sequence[Buffer]) -> None:
        """Reads the parts twice, so that one which changes meanwhile is written as a mixture, as on a disk."""
        parts_of(name)
        first = _joined(parts)
        self.tear_slot(name, [first])
        await self._pause()  # a writer who dies here leaves it torn
        last = _joined(parts)
        middle = len(first) // 2
        self._blobs[name] = first[:middle] + last[middle:]

    def tear_slot(self, name: str, parts: Sequence[Buffer]) -> None:
        """Breaks off in the middle of writing a slot."""
        self._blobs[name] = self._torn(self._blobs.get(name, b""), _joined(parts))

    async def read(self, name: str) -> bytes:
        parts_of(name)
        await self._pause()
        return self._found(name)

    async def read_chunks(self, name: str, *, chunk_size: int) -> AsyncIterator[bytes]:
        parts_of(name)
        data = self._found(name)
        for start in range(0, len(data), chunk_size):
            await self._pause()
            yield data[start : start + chunk_size]

    async def read_range(self, name: str, *, start: int, size: int) -> bytes:
        parts_of(name)
        await self._pause()
        return self._found(name)[start : start + size]

    async def size(self, name: str) -> int:
        parts_of(name)
        return len(self._found(name))

    async def list_folders(self, prefix: str) -> list[str]:
        depth = len(parts_of(prefix)) if prefix else 0
        found = [name.split("/") for name in await self.list(prefix)]
        return sorted({parts[depth] for parts in found if len(parts) > depth + 1})

    async def list(self, prefix: str) -> list[str]:
        folder = f"{'/'.join(parts_of(prefix))}/" if prefix else ""
        await self._pause()
        return sorted(name for name in self._blobs if name.startswith(folder))

    async def settle(self) -> None:
        await self._pause()

    async def sweep(self) -> None:
        """Nothing of a process outlives it here."""

    async def delete(self, name: str) -> None:
        parts_of(name)
        self._blobs.pop(name, None)

    def _found(self, name: str) -> bytes:
        try:
            return self._blobs[name]
        except KeyError:
            raise BlobMissing(name) from None


class StagedBytes:
    """A staged blob of the store."""

    def __init__(self, store: MemoryBlobStore) -> None:
        self._store = store
        self._data = b""

    @property
    def size(self) -> int:
        return len(self._data)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self._data).hexdigest()

    async def append(self, data: Buffer) -> None:
        self._data += _joined([data])

    async def read_range(self, *, start: int, size: int) -> bytes:
        return self._data[start : start + size]

    async def publish(self, name: str) -> None:
        await self._store.write(name, [self._data])


def _joined(parts: Sequence[Buffer]) -> bytes:
    return b"".join(memoryview(part).cast("B") for part in parts)
