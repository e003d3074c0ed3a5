"""Which versions keep their weights: the newest ones, version 0, and those that something refers to.

Ledger entries always stay. Knows the blob store; nothing of rounds.

Deleting and referring to a version may happen at once, in processes that know nothing
of each other. Both say what they do before they look whether the other did:

    sweep     raises the bound, then reads the pins, then deletes what is older and has none
    pin       writes the pin, then reads the bound; a version that is older by then is refused

So at least one of the two sees the other. The bound is the greatest of the names under
`kept/`: whoever adds one cannot lower it, and the last ones stay, for those who list them meanwhile.
Weights are named by the number of their version, too: what is deleted is never what
somebody is about to publish. A reader who has begun reads on (`BlobStore.read_chunks`);
one who comes later is told that they are no longer kept.
"""

from __future__ import annotations

import contextlib

from blobstore import names, records
from blobstore.store import BlobExists, BlobMissing, BlobStore
from learning.ids import TaskId
from learning.refusals import VersionNotFound

BOUNDS_LEFT = 3

_ASKED, _HELD = b"asked", b"held"


async def pin(store: BlobStore, task_id: TaskId, number: int) -> None:
    """Keeps the weights of a version for good. Raises VersionNotFound where they may be gone already."""
    if number == 0:
        return  # is never deleted
    name = names.pin(task_id, number)
    with contextlib.suppress(BlobMissing):
        if await store.read(name) == _HELD:
            return
    with contextlib.suppress(BlobExists):
        await store.write(name, [_ASKED], replace=False)
    if number < await records.oldest_kept(store, task_id):
        raise VersionNotFound(version=number)
    await store.write(name, [_HELD])


async def sweep(store: BlobStore, task_id: TaskId, *, oldest: int) -> int:
    """Deletes the weights of versions before `oldest` that nothing refers to; how many. Repeating it is harmless."""
    if await records.oldest_kept(store, task_id) < oldest:
        await store.write(names.bound_of_kept(task_id, oldest), [b""])
        for bound in (await store.list(names.bounds_of_kept(task_id)))[:-BOUNDS_LEFT]:
            await store.delete(bound)
    pinned = {int(name.rsplit("/", 1)[1]) for name in await store.list(names.pins(task_id))}
    deleted = 0
    for name in await store.list(names.all_weights(task_id)):
        if 0 < names.version_of_weights(name) < oldest and names.version_of_weights(name) not in pinned:
            await store.delete(name)
            deleted += 1
    return deleted
