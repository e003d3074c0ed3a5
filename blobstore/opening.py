"""The one place where settings become a store. Knows which kinds there are; their insides are theirs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from blobstore.directory import DirectoryBlobStore
from blobstore.settings import BlobSettings
from blobstore.store import BlobStore
from learning.refusals import StoreUnavailable

if TYPE_CHECKING:
    from blobstore.object_storage import ObjectBlobStore

LOOK_AGAIN_S = 2.0

_log = structlog.stdlib.get_logger("blobstore")


@asynccontextmanager
async def open_store(
    settings: BlobSettings, *, reads_only: bool = False, look_again_s: float = LOOK_AGAIN_S
) -> AsyncIterator[BlobStore]:
    """The store that the settings name, once it can be used. `reads_only`: nothing will be written, or may be.

    A directory that cannot be used ends the process with a sentence: it will not
    mend itself. Object storage is waited for, and the log says why.
    """
    if settings.blob_url:
        async with _object_storage(settings) as objects:
            await _until_usable(objects, settings.blob_url, look_again_s)
            yield objects
    else:
        async with _directory(settings, reads_only=reads_only) as directory:
            yield directory


def _directory(settings: BlobSettings, *, reads_only: bool) -> DirectoryBlobStore:
    try:
        return DirectoryBlobStore(settings.data_dir, settings.durability, reads_only=reads_only)
    except StoreUnavailable:
        if reads_only:
            sys.exit(
                f"Cannot read blobs in {settings.data_dir}. Make it a directory that can be read, or choose another."
            )
        sys.exit(
            f"Cannot keep blobs in {settings.data_dir}. Make it a directory that can be written, or choose another."
        )


def _object_storage(settings: BlobSettings) -> ObjectBlobStore:
    try:
        # Here, because it is an extra that nobody needs who keeps blobs in a directory.
        from blobstore.object_storage import ObjectBlobStore
    except ModuleNotFoundError as missing:
        package = str(missing.name).partition(".")[0]
        sys.exit(f"DISCO_BLOB_URL needs the package {package}: install disco-server with the extra s3.")
    return ObjectBlobStore(
        settings.bucket,
        settings.prefix,
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=settings.s3_secret_access_key.get_secret_value(),
    )


async def _until_usable(store: ObjectBlobStore, blob_url: str, look_again_s: float) -> None:
    while True:
        try:
            await store.check()
            return
        except StoreUnavailable as fault:
            _log.warning("blobstore.waiting", blob_url=blob_url, because=str(fault), cause=_first_line(fault.__cause__))
        await asyncio.sleep(look_again_s)


def _first_line(cause: BaseException | None) -> str:
    return str(cause or "").partition("\n")[0]
