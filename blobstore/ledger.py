"""The ledger of a task as something that can be checked: Merkle trees over contributions, the chain of entries.

Pure: knows entries and hashes, and no store. The servers compute with it what the
`verify` command checks with it, from the same definitions:

    leaf          what the contribution's receipt states (`learning.receipts`), hashed as RFC 6962 says
    merkle_root   of the tree over the leaves in the order of positions
    previous      SHA-256 of the bytes of the entry before, as they were written
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from blobstore.records import LedgerEntry, LedgerLine
from learning import merkle
from learning.receipts import Statement


def digest_of_entry(data: bytes) -> str:
    """What the next entry states as `previous`."""
    return hashlib.sha256(data).hexdigest()


def statement(entry: LedgerEntry, line: LedgerLine) -> Statement:
    """What the receipt of one of the entry's contributions states. Round n makes version n + 1."""
    return Statement(
        task_id=entry.task_id,
        round=entry.version - 1,
        participant_id=line.participant_id,
        digest=line.digest,
        weight=line.weight,
        position=line.position,
    )


def leaves(entry: LedgerEntry) -> list[bytes]:
    """The leaf hashes of all contributions, in their order. ValueError where a line could not be a receipt's."""
    return [merkle.leaf_hash(statement(entry, line).encode()) for line in entry.contributions]


def with_root(entry: LedgerEntry) -> LedgerEntry:
    """The entry with the root over its contributions."""
    return replace(entry, merkle_root=merkle.root(leaves(entry)).hex())
