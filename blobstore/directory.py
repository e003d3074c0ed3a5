"""Blobs as files in one directory, shared by processes of one host or by a volume that hosts share.

    <directory>/<name>      a blob; its name is its path
    <directory>/~writing/   files that are being written; "~" is in no name, so no blob lies there

A slot is written in place; one that is deleted may become another one, with its bytes until they are written over.
Every other blob is written beside the others and then renamed (or linked, where it must
not replace one), so readers see the old one or the new one, and a writer that
is killed leaves nothing but a file in ~writing, which a store removes when it
is opened an hour later, or swept. A staged blob is such a file, too.

After return, a blob survives the death of this process. What a loss of power
takes is the durability: "always" syncs the file and its folders before every
return; "second" does so within a second after it. A file of that last second
may then be old, missing, empty or cut off, which readers notice by its digest.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self

from blobstore import files, names
from blobstore.digests import is_lost
from blobstore.disk_calls import INLINE_BYTES, faults, in_thread
from blobstore.flusher import Flusher
from blobstore.settings import Durability
from blobstore.spare_files import SpareFiles
from blobstore.staged_file import StagedFile
from blobstore.store import BlobExists, BlobMissing, Buffer, names_among, parts_of

WRITING = "~writing"
LEFT_OVER_S = 3600.0


class DirectoryBlobStore:
    """Keeps blobs in a directory, which is made where it is missing. Raises StoreUnavailable, as every method.

    `reads_only`: for who writes nothing, and may not; a directory that is missing is taken for one without blobs.
    """

    def __init__(self, path: Path | str, durability: Durability = "second", *, reads_only: bool = False) -> None:
        self._root = str(Path(path).absolute())
        self._writing = f"{self._root}/{WRITING}"
        self._flusher = Flusher(self._root) if durability == "second" else None
        self._spare_files = SpareFiles(self._writing)
        with faults():
            if not reads_only:
                os.makedirs(self._writing, exist_ok=True)
                files.remove_older(self._writing, LEFT_OVER_S)
            elif os.path.exists(self._root):
                os.scandir(self._root).close()  # it must be a directory, and one that can be read

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Syncs what is not yet safe from a loss of power."""
        with faults():
            self._spare_files.close()
            if self._flusher is not None:
                await self._flusher.close()

    async def write(self, name: str, parts: Sequence[Buffer], *, replace: bool = True) -> None:
        path, temporary = self._path(name), self._temporary()
        with faults():
            try:
                await self._written(
                    path,
                    parts,
                    lambda: files.write_whole(
                        path,
                        temporary,
                        parts,
                        replace=replace,
                        sync=self._flusher is None,
                        private=name.startswith(names.PRIVATE),
                    ),
                )
            except FileExistsError:
                raise BlobExists(name) from None

    async def keep(self, name: str, parts: Sequence[Buffer], *, digest: str) -> None:
        path = self._path(name)
        try:
            await self.write(name, parts, replace=False)
        except BlobExists:
            if await is_lost(self, name, digest):
                await self.write(name, parts)
                return
            # Whoever wrote it may have died before it was synced.
            with faults():
                if self._flusher is None:
                    await in_thread(lambda: files.sync([path], self._root))
                else:
                    self._flusher.changed(path)

    async def write_slot(self, name: str, parts: Sequence[Buffer]) -> None:
        path = self._path(name)
        with faults():
            self._spare_files.use(path)
            await self._written(path, parts, lambda: files.write_in_place(path, parts))

    @asynccontextmanager
    async def staged(self) -> AsyncIterator[StagedFile]:
        temporary = self._temporary()
        with faults():
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            yield StagedFile(descriptor, lambda name, staged: self._publish(name, staged, temporary))
        finally:
            os.close(descriptor)
            with faults(), suppress(FileNotFoundError):
                os.unlink(temporary)

    async def _publish(self, name: str, staged: StagedFile, temporary: str) -> None:
        path, sync = self._path(name), self._flusher is None

        def publish() -> None:
            staged.finish(sync=sync)
            files.move(temporary, path)
            if sync:
                files.sync([path], self._root)

        with faults():
            await in_thread(publish)
            if self._flusher is not None:
                self._flusher.changed(path)

    async def _written(self, path: str, parts: Sequence[Buffer], write: Callable[[], None]) -> None:
        if self._flusher is None:

            def write_and_sync() -> None:
                write()
                files.sync([path], self._root)

            await in_thread(write_and_sync)
            return
        if sum(memoryview(part).nbytes for part in parts) <= INLINE_BYTES:
            write()
        else:
            await in_thread(write)
        self._flusher.changed(path)

    async def read(self, name: str) -> bytes:
        with self._opened(name) as file:
            return file.read() if os.fstat(file.fileno()).st_size <= INLINE_BYTES else await in_thread(file.read)

    async def read_chunks(self, name: str, *, chunk_size: int) -> AsyncIterator[bytes]:
        with self._opened(name) as file:
            inline = min(chunk_size, os.fstat(file.fileno()).st_size) <= INLINE_BYTES
            while chunk := file.read(chunk_size) if inline else await in_thread(lambda: file.read(chunk_size)):
                yield chunk

    async def read_range(self, name: str, *, start: int, size: int) -> bytes:
        def read() -> bytes:
            file.seek(start)
            return file.read(size)

        with self._opened(name) as file:
            return read() if size <= INLINE_BYTES else await in_thread(read)

    async def size(self, name: str) -> int:
        with faults(), _missing(name):
            found = os.stat(self._path(name))
        if not stat.S_ISREG(found.st_mode):
            raise BlobMissing(name)
        return found.st_size

    async def list_folders(self, prefix: str) -> list[str]:
        folder = self._path(prefix) if prefix else self._root
        with faults():
            return names_among(await in_thread(lambda: files.folders_in(folder)))

    async def list(self, prefix: str) -> list[str]:
        folder = self._path(prefix) if prefix else self._root
        with faults():
            found = await in_thread(lambda: files.names_below(folder, self._root))
        return names_among(found)

    async def settle(self) -> None:
        if self._flusher is not None:
            with faults():
                await self._flusher.flush()

    async def sweep(self) -> None:
        with faults():
            await in_thread(lambda: files.remove_older(self._writing, LEFT_OVER_S))

    async def delete(self, name: str) -> None:
        path = self._path(name)
        with faults():
            if names.is_slot(name):
                self._spare_files.keep(path)
            files.delete(path, self._root)

    def _path(self, name: str) -> str:
        parts_of(name)
        return os.path.join(self._root, name)

    def _temporary(self) -> str:
        return f"{self._writing}/{secrets.token_hex(16)}"

    @contextmanager
    def _opened(self, name: str) -> Iterator[BinaryIO]:
        path = self._path(name)
        with faults(), _missing(name), open(path, "rb") as file:
            yield file


@contextmanager
def _missing(name: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise BlobMissing(name) from None
