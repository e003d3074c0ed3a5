"""The secret that noise is drawn from: one for the installation, made once, shared by all aggregators, never served.

It lies in the blob store (`names.noise_secret`), and is made when the first version with
noise is. Who knows it can take the noise off every version there is.
"""

from __future__ import annotations

import contextlib
import secrets

from blobstore import names
from blobstore.store import BlobExists, BlobMissing, BlobStore
from learning.refusals import StoredDataDamaged
from services.aggregator.rules.gaussian_noise import SECRET_BYTES


class NotANoiseSecret(Exception):
    """The bytes are no secret in hexadecimal."""


def read_secret(written: bytes) -> bytes:
    """The secret in its file. Raises NotANoiseSecret."""
    try:
        secret = bytes.fromhex(written.decode("ascii").strip())
    except ValueError:
        raise NotANoiseSecret from None
    if len(secret) != SECRET_BYTES:
        raise NotANoiseSecret
    return secret


async def shared_secret(blobs: BlobStore) -> bytes:
    """The installation's secret, made where there is none: of those who make one at once, all get the first.

    Raises StoredDataDamaged.
    """
    name = names.noise_secret()
    try:
        written = await blobs.read(name)
    except BlobMissing:
        with contextlib.suppress(BlobExists):  # another aggregator was first, or this very write, its answer being lost
            await blobs.write(name, [f"{secrets.token_hex(SECRET_BYTES)}\n".encode()], replace=False)
        written = await blobs.read(name)
    try:
        return read_secret(written)
    except NotANoiseSecret:
        raise StoredDataDamaged(name=name) from None
