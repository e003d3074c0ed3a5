"""A blob that is being written, as a file without a name among the blobs: what both kinds of stores stage in.

Bytes are written at the offset that has been reached, so an append that failed, or whose
caller went, has changed nothing that counts. Knows a descriptor, and not what becomes of the file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable

from blobstore.disk_calls import INLINE_BYTES, faults, in_thread
from blobstore.store import Buffer


class StagedFile:
    """`descriptor` is open for reading and writing, and its file is empty; whoever opened it closes it.

    `publish` gives the bytes a name.
    """

    def __init__(self, descriptor: int, publish: Callable[[str, StagedFile], Awaitable[None]]) -> None:
        self._descriptor = descriptor
        self._publish = publish
        self._sha256 = hashlib.sha256()
        self._size = 0

    @property
    def size(self) -> int:
        return self._size

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()

    async def append(self, data: Buffer) -> None:
        octets = memoryview(data).cast("B")

        def write() -> None:
            rest, place = octets, self._size
            while rest:
                written = os.pwrite(self._descriptor, rest, place)
                rest, place = rest[written:], place + written
            self._sha256.update(octets)
            self._size = place

        with faults():
            if octets.nbytes <= INLINE_BYTES:
                write()
            else:
                await in_thread(write)

    async def read_range(self, *, start: int, size: int) -> bytes:
        assert 0 <= start <= start + size <= self._size, "more is read than was written"
        with faults():
            if size <= INLINE_BYTES:
                return self._read(start, size)
            return await in_thread(lambda: self._read(start, size))

    def _read(self, start: int, size: int) -> bytes:
        """One call reads it whole, unless a signal or the end of the file comes in between."""
        read = os.pread(self._descriptor, size, start)
        while len(read) < size:
            more = os.pread(self._descriptor, size - len(read), start + len(read))
            if not more:
                raise OSError("the file that is being written was cut off")
            read += more
        return read

    async def publish(self, name: str) -> None:
        await self._publish(name, self)

    def finish(self, *, sync: bool) -> None:
        """Cuts off what failed appends have left behind the end. Blocks. Raises OSError."""
        os.ftruncate(self._descriptor, self._size)
        if sync:
            os.fsync(self._descriptor)
