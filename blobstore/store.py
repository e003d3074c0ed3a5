"""What a store of blobs promises. One contract suite for all of them (tests/blobstore/store_contract.py).

Names are relative POSIX paths of 1 to 8 parts, each an id as `learning.ids`
defines it; `blobstore.names` builds all of them, and none is a folder of another.
Whatever else is asked for is a bug of the caller (AssertionError).

Every method raises StoreUnavailable where the store cannot be reached, StoreFull where it is full.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from learning.ids import valid_id
from learning.refusals import InvalidId, StoreUnavailable

Buffer = bytes | bytearray | memoryview

MAX_PARTS = 8
_NAME_CHARACTERS = re.compile(r"[A-Za-z0-9_./-]+")


def parts_of(name: str) -> list[str]:
    """The folders of a name, and what it is called in the last one. AssertionError where it is no name."""
    parts = name.split("/")
    assert len(parts) <= MAX_PARTS, f"{name!r} has more than {MAX_PARTS} parts"
    try:
        return [valid_id(part, "blob") for part in parts]
    except InvalidId:
        raise AssertionError(f"{name!r} is no name of a blob") from None


def names_among(found: Sequence[str]) -> list[str]:
    """What of this is a name; the rest is a store's own."""
    return [name for name in found if _NAME_CHARACTERS.fullmatch(name)]


class BlobMissing(Exception):
    """There is no blob of this name."""


class BlobExists(Exception):
    """There is a blob of this name already."""


class StoreFull(StoreUnavailable):
    """There is no room for what was to be written, and nothing was: to most callers a store that is away."""


class StagedBlob(Protocol):
    """Bytes that are written bit by bit and have no name yet: nobody else sees them. Holds none of them in memory."""

    @property
    def size(self) -> int:
        """Bytes so far."""

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes so far, in hex."""

    async def append(self, data: Buffer) -> None:
        """Behaviour: all of it or, where it raises, nothing of it counts."""

    async def read_range(self, *, start: int, size: int) -> bytes:
        """`size` bytes of those so far, from byte `start` on."""

    async def publish(self, name: str) -> None:
        """Makes the bytes a blob, as `write` does, in the place of one that is there: for names that say what the
        bytes are. Behaviour: at most once, and last.
        """


class BlobStore(Protocol):
    """Keeps bytes under names, shared by processes."""

    async def write(self, name: str, parts: Sequence[Buffer], *, replace: bool = True) -> None:
        """Writes a blob whole: a reader sees the old one or the new one, never a mixture, never a part.

        Behaviour: after return it survives the death of this process, and the
        loss of power as the durability setting says. Raises BlobExists where there is one and
        `replace` is false; of two that write at once, exactly one succeeds then.
        """

    async def keep(self, name: str, parts: Sequence[Buffer], *, digest: str) -> None:
        """Writes a blob whose name says what it holds: its bytes have the SHA-256 `digest`, in hex.

        Behaviour: as `write`, but one that is there with these bytes is left alone: others may have been promised
        that it is safe, which what is newly written is not yet. It is safe as if it were written now.
        """

    def staged(self) -> AbstractAsyncContextManager[StagedBlob]:
        """A blob of any size that is written and read before it is known whether, and as what, it is to be kept.

        Behaviour: at the end of the block nothing is left of one that was not published. A
        process that is killed leaves nothing that has a name.
        """

    async def write_slot(self, name: str, parts: Sequence[Buffer]) -> None:
        """Writes a blob in place, fast: a reader at the same moment, or after a death in between, may see anything.

        Behaviour: for bytes whose digest is kept elsewhere and that nobody
        reads until then (two slots, written in turn).
        """

    async def read(self, name: str) -> bytes:
        """Raises BlobMissing."""

    def read_chunks(self, name: str, *, chunk_size: int) -> AsyncIterator[bytes]:
        """The blob from its start in chunks of `chunk_size` bytes, the last one shorter.

        Behaviour: one blob from start to end, even where it is replaced or deleted meanwhile.
        Raises BlobMissing at the first step.
        """

    async def read_range(self, name: str, *, start: int, size: int) -> bytes:
        """`size` bytes of a blob from byte `start` on: of one that is never replaced, and where it has them.

        Behaviour: keeps nothing open between two calls. Raises BlobMissing.
        """

    async def size(self, name: str) -> int:
        """In bytes. Raises BlobMissing."""

    async def list_folders(self, prefix: str) -> list[str]:
        """What the folders directly in a folder are called, sorted, however much lies below them.

        Behaviour: one that has just become empty may still be among them.
        """

    async def list(self, prefix: str) -> list[str]:
        """The names below a folder (`prefix` without a slash at its end; "" for all), sorted."""

    async def settle(self) -> None:
        """Returns once everything that this process has written is safe from a loss of power: for what is rare."""

    async def sweep(self) -> None:
        """Removes what writers that were killed an hour ago have left, as far as the store knows of it."""

    async def delete(self, name: str) -> None:
        """Behaviour: no error for a blob that is not there."""
