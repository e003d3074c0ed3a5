"""Whether a blob is what its digest says. Knows one blob, and not what hangs on it."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

from blobstore.store import BlobMissing, BlobStore

LOOKS, MOST_LOOKS = 3, 20
CHUNK_BYTES = 4 << 20
INLINE_BYTES = 256 << 10


async def is_lost(store: BlobStore, name: str, digest: str, kind: Callable[[], Any] = hashlib.sha256) -> bool:
    """Whether a blob is gone, or holds other bytes: the same ones as often as it is read."""
    found: Counter[str] = Counter()
    for _ in range(MOST_LOOKS):
        read = await _digest_of(store, name, kind)
        found[read] += 1
        if read == digest:
            return False
        if found[read] == LOOKS:
            return True
    return False  # whoever reads other bytes each time has trouble with reading, which may pass


async def _digest_of(store: BlobStore, name: str, kind: Callable[[], Any]) -> str:
    """Empty where there is no such blob."""
    digest = kind()
    try:
        async for chunk in store.read_chunks(name, chunk_size=CHUNK_BYTES):
            if len(chunk) > INLINE_BYTES:
                await asyncio.to_thread(digest.update, chunk)
            else:
                digest.update(chunk)
    except BlobMissing:
        return ""
    return str(digest.hexdigest())
