"""Blobs as objects in a bucket that speaks S3, for hosts that share no disk.

    s3://<bucket>/<prefix>/<name>            a blob; its name is the end of its key
    s3://<bucket>/<prefix>/~conditions/…     an object that shows whether the server honours conditions

An object changes as a whole or not at all, and is durable once the server says so;
so `write` is one PUT (or one multipart upload), and the durability setting means nothing here.
A reader holds one GET open, which goes on with the object that it began with.
A staged blob is a file without a name in this host's folder for temporary files, which goes with its process; it
is sent when it is published, part by part.

What differs from a disk is that a request may take effect after its sender gave it
up: it may wait in a proxy, or the library has repeated it over another connection. Blobs
that are written twice with different bytes are therefore written on a condition that
the next write makes untrue:

    write(replace=False)   If-None-Match: *        nothing is there
    write_slot             If-Match: <its ETag>    what is there is what this store saw last

A late write of a slot then fails, whenever it arrives, and cannot come in after what was
written next. Whether the server honours conditions is tried out before the first is sent.

Knows S3 and the library that speaks it; nothing of what is in the blobs, nor of settings.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from blobstore.disk_calls import faults
from blobstore.staged_file import StagedFile
from blobstore.store import BlobExists, BlobMissing, Buffer, names_among, parts_of
from learning.refusals import StoreUnavailable

if TYPE_CHECKING:
    from obstore import PutMode
    from obstore.store import S3Config

PATIENCE_S = 10.0
"""How long the server may be silent."""
SLOWEST_BYTES_PER_S = 4 << 20
"""A transfer may take PATIENCE_S, and a second more for each of these."""
RETRIES = 3
CONNECT_S = 5
UNLIMITED_S = 86_400
MULTIPART_BYTES = 64 << 20
"""From here on a body is sent in parts, so that a broken connection costs one of them."""
PART_BYTES = 8 << 20
PARTS_AT_ONCE = 4
STAGED_PART_BYTES = 5 << 20
"""Of a staged blob, one after the other: the smallest that S3 takes, because there may be many transfers."""
INLINE_BYTES = 1 << 20
CONTENDED_ATTEMPTS = 5
SLOTS_REMEMBERED = 1024
PAGE = 1000

REFUSED = ("401 Unauthorized", "403 Forbidden")
WRONG_REGION = ("AuthorizationHeaderMalformed", "PermanentRedirect", "redirect without LOCATION")

CONDITIONS = "~conditions"
NEVER_AN_ETAG = '"00000000000000000000000000000000"'


class StorageMisconfigured(StoreUnavailable):
    """Waiting will not mend it, an operator will: the same reason for callers, and a sentence of its own."""

    sentence = "The object storage {problem}"


class ObjectBlobStore:
    """Keeps blobs in a bucket. Every method raises StoreUnavailable; StorageMisconfigured where that is why.

    Without an access key, credentials are those that the host has been granted.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str = "",
        region: str = "us-east-1",
        access_key_id: str = "",
        secret_access_key: str = "",
        patience_s: float = PATIENCE_S,
    ) -> None:
        config: S3Config = {"region": region, "disable_bulk_delete": True}  # not every server has that
        if endpoint:
            config["endpoint"] = endpoint
        if access_key_id:
            config |= {"access_key_id": access_key_id, "secret_access_key": secret_access_key}
        self._bucket = bucket
        self._patience_s = patience_s
        self._objects = S3Store(
            bucket,
            prefix=prefix or None,
            config=config,
            # The library counts a transfer's time by the request, whatever its size; the time is kept here instead.
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=CONNECT_S),
                "timeout": timedelta(seconds=UNLIMITED_S),
            },
            retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=patience_s)},
        )
        self._conditions_hold = False
        self._tags: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass  # nothing is kept back, and connections end by themselves

    async def check(self) -> None:
        """Returns where the bucket is there and may be read."""
        async with self._asking():
            await anext(aiter(self._objects.list(chunk_size=1)), None)

    async def write(self, name: str, parts: Sequence[Buffer], *, replace: bool = True) -> None:
        parts_of(name)
        if replace:
            await self._put(name, parts, "overwrite")
        else:
            await self._create(name, parts)

    async def keep(self, name: str, parts: Sequence[Buffer], *, digest: str) -> None:
        """An object is never less than whole, so that writing the same bytes again endangers nothing."""
        await self.write(name, parts)

    @asynccontextmanager
    async def staged(self) -> AsyncIterator[StagedFile]:
        with faults():
            file = tempfile.TemporaryFile()  # noqa: SIM115 (what the block raises is no fault of the disk)
        with file:
            yield StagedFile(file.fileno(), self._send)

    async def _send(self, name: str, staged: StagedFile) -> None:
        parts_of(name)
        if staged.size <= STAGED_PART_BYTES:
            await self._put(name, [await staged.read_range(start=0, size=staged.size)], "overwrite")
            return

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, staged.size, INLINE_BYTES):
                yield await staged.read_range(start=start, size=min(INLINE_BYTES, staged.size - start))

        async with self._asking(size=staged.size):
            await self._objects.put_async(
                name, pieces(), use_multipart=True, chunk_size=STAGED_PART_BYTES, max_concurrency=1
            )

    async def write_slot(self, name: str, parts: Sequence[Buffer]) -> None:
        parts_of(name)
        await self._prove_conditions()
        for attempt in range(CONTENDED_ATTEMPTS):
            await _pause(attempt)
            seen = self._tags.pop(name, None)
            try:
                tag = await self._put(name, parts, {"e_tag": seen} if seen else "create")
            except (AlreadyExistsError, PreconditionError):
                # Somebody wrote meanwhile: an earlier call that had been given up, or a repetition of this one's.
                await self._look(name)
            else:
                self._remember(name, tag)
                return
        raise StoreUnavailable

    async def read(self, name: str) -> bytes:
        parts_of(name)
        async with self._asking(name):
            found = await self._objects.get_async(name)
        async with self._asking(name, size=found.meta["size"]):
            data = await found.bytes_async()
        return bytes(data) if len(data) <= INLINE_BYTES else await asyncio.to_thread(bytes, data)

    async def read_chunks(self, name: str, *, chunk_size: int) -> AsyncIterator[bytes]:
        parts_of(name)
        async with self._asking(name):
            found = await self._objects.get_async(name)
        stream, arrived = aiter(found.stream(min_chunk_size=chunk_size)), bytearray()
        while True:
            async with self._asking(name, size=chunk_size):
                piece = await anext(stream, None)
            if piece is None:
                break
            arrived += piece
            while len(arrived) >= chunk_size:
                yield bytes(memoryview(arrived)[:chunk_size])
                del arrived[:chunk_size]
        if arrived:
            yield bytes(arrived)

    async def read_range(self, name: str, *, start: int, size: int) -> bytes:
        parts_of(name)
        async with self._asking(name, size=size):
            return bytes(await self._objects.get_range_async(name, start=start, length=size))

    async def size(self, name: str) -> int:
        parts_of(name)
        async with self._asking(name):
            return (await self._objects.head_async(name))["size"]

    async def list_folders(self, prefix: str) -> list[str]:
        if prefix:
            parts_of(prefix)
        async with self._asking():
            found = await self._objects.list_with_delimiter_async(prefix or None)
        folders = names_among([path.rstrip("/") for path in found["common_prefixes"]])
        return sorted(path.rsplit("/", 1)[-1] for path in folders)

    async def list(self, prefix: str) -> list[str]:
        if prefix:
            parts_of(prefix)
        found: list[str] = []
        pages = aiter(self._objects.list(prefix or None, chunk_size=PAGE))
        while True:
            async with self._asking():
                page = await anext(pages, None)
            if page is None:
                return sorted(names_among(found))
            found += [entry["path"] for entry in page]

    async def settle(self) -> None:
        """What object storage has taken, it keeps."""

    async def sweep(self) -> None:
        """Staged blobs go with their process. Uploads that broke off need a rule of the bucket (docs/operations.md)."""

    async def delete(self, name: str) -> None:
        parts_of(name)
        self._tags.pop(name, None)
        async with self._asking():
            await self._objects.delete_async(name)

    async def _create(self, name: str, parts: Sequence[Buffer]) -> None:
        await self._prove_conditions()
        for attempt in range(CONTENDED_ATTEMPTS):
            await _pause(attempt)
            try:
                await self._put(name, parts, "create")
                return
            except AlreadyExistsError:
                # Also what the library makes of 409: others wrote at the same moment, and nothing may have come of it.
                if await self._tag(name) is not None:
                    raise BlobExists(name) from None
        raise StoreUnavailable

    async def _put(self, name: str, parts: Sequence[Buffer], mode: PutMode) -> str | None:
        """The new ETag. Raises AlreadyExistsError or PreconditionError where the condition does not hold."""
        body = [memoryview(part).cast("B") for part in parts]
        size = sum(part.nbytes for part in body)
        async with self._asking(size=size):
            put = await self._objects.put_async(
                name,
                body,
                mode=mode,
                use_multipart=mode == "overwrite" and size >= MULTIPART_BYTES,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )
        return put["e_tag"]

    async def _tag(self, name: str) -> str | None:
        """The ETag of what is there; None where nothing is."""
        try:
            async with self._asking(name):
                return (await self._objects.head_async(name))["e_tag"]
        except BlobMissing:
            return None

    async def _look(self, name: str) -> None:
        self._remember(name, await self._tag(name))

    def _remember(self, name: str, tag: str | None) -> None:
        if tag is None:
            return
        self._tags[name] = tag
        if len(self._tags) > SLOTS_REMEMBERED:
            del self._tags[next(iter(self._tags))]  # a slot that is written again is looked at, which costs a request

    async def _prove_conditions(self) -> None:
        if self._conditions_hold:
            return
        trial = f"{CONDITIONS}/{secrets.token_hex(16)}"
        await self._put(trial, [b"first"], "create")
        refused = 0
        modes: tuple[PutMode, ...] = ("create", {"e_tag": NEVER_AN_ETAG})
        for mode in modes:
            try:
                await self._put(trial, [b"second"], mode)
            except (AlreadyExistsError, PreconditionError):
                refused += 1
        async with self._asking():
            await self._objects.delete_async(trial)
        if refused < len(modes):
            raise StorageMisconfigured(
                problem="ignores conditions (If-None-Match, If-Match), so that two writers could both succeed. "
                "Choose a server that honours them."
            )
        self._conditions_hold = True

    @asynccontextmanager
    async def _asking(self, name: str = "", *, size: int = 0) -> AsyncIterator[None]:
        """Gives one request its time, and says in our words how it failed; refused conditions go through."""
        try:
            async with asyncio.timeout(self._patience_s + size / SLOWEST_BYTES_PER_S):
                yield
        except (AlreadyExistsError, PreconditionError):
            raise
        except (BaseError, OSError) as fault:
            if problem := self._problem(str(fault)):
                raise StorageMisconfigured(problem=problem) from fault
            if isinstance(fault, FileNotFoundError) and name:
                raise BlobMissing(name) from None
            raise StoreUnavailable from fault

    def _problem(self, fault: str) -> str:
        """What an operator must mend; empty where it may pass. The library tells these by their text alone."""
        if "NoSuchBucket" in fault:
            return f"has no bucket {self._bucket}. Create it, or correct DISCO_BLOB_URL."
        if any(sign in fault for sign in WRONG_REGION):
            return f"keeps the bucket {self._bucket} in another region. Correct DISCO_S3_REGION."
        if any(sign in fault for sign in REFUSED):
            return (
                "refuses the access key, or what was asked for with it. Check DISCO_S3_ACCESS_KEY_ID, "
                "DISCO_S3_SECRET_ACCESS_KEY, what they may do with the bucket, and the clock of this machine."
            )
        return ""


async def _pause(attempt: int) -> None:
    """Before another attempt; they come further and further apart."""
    if attempt:
        await asyncio.sleep(0.05 * 2**attempt)
