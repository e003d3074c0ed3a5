"""The key that signs receipts: one for the installation, made once, shared by all aggregators.

It lies in the blob store (`names.receipt_key`) unless an operator gives a file of his own.
Knows keys and signatures; what is signed is `learning.receipts`. Never logs, and
never shows, the private half.
"""

from __future__ import annotations

import contextlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from blobstore import names
from blobstore.store import BlobExists, BlobMissing, BlobStore
from learning.receipts import Statement, key_id


class NotAReceiptKey(Exception):
    """The bytes are no Ed25519 private key in PEM without a password."""


class ReceiptKey:
    """Signs what receipts state. The same statement always gets the same signature."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        public = private.public_key()
        self.public_key = public.public_bytes_raw()
        """32 bytes."""
        self.key_id = key_id(self.public_key)
        self.pem = public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()
        """The public half."""

    @classmethod
    def from_pem(cls, pem: bytes) -> ReceiptKey:
        """Raises NotAReceiptKey."""
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as broken:
            raise NotAReceiptKey from broken
        if not isinstance(private, Ed25519PrivateKey):
            raise NotAReceiptKey
        return cls(private)

    def sign(self, statement: Statement) -> bytes:
        """64 bytes."""
        return self._private.sign(statement.encode())


def new_pem() -> bytes:
    """A private key that nobody had before."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


async def shared_key(blobs: BlobStore) -> ReceiptKey:
    """The installation's key, made where there is none: of those who make one at once, all get the first.

    Raises NotAReceiptKey, StoreUnavailable.
    """
    name = names.receipt_key()
    with contextlib.suppress(BlobMissing):
        return ReceiptKey.from_pem(await blobs.read(name))
    with contextlib.suppress(BlobExists):  # another aggregator was first, or this very write, its answer being lost
        await blobs.write(name, [new_pem()], replace=False)
        await blobs.settle()  # a receipt must never be signed with a key that the next loss of power takes
    return ReceiptKey.from_pem(await blobs.read(name))
