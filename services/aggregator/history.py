"""The versions of a task as their ledger states them, and proofs that a contribution is in one.

Knows the blob store; no gRPC. Weights are `services.aggregator.versions`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from blobstore import ledger, names, records
from blobstore.records import LedgerEntry, LedgerLine
from blobstore.store import BlobStore
from learning import merkle
from learning.ids import TaskId
from learning.receipts import Statement
from learning.refusals import MalformedMessage, NotInVersion, StoredDataDamaged, VersionNotFound
from roundstore.store import RoundStore
from rpc.off_loop import off_loop
from services.aggregator.rounds import Rounds

DEFAULT_PAGE = 20
MAX_PAGE = 100


@dataclass(frozen=True, slots=True)
class Stated:
    """A version as its ledger entry states it."""

    task_id: TaskId
    entry: LedgerEntry
    data: bytes
    """The entry as it was written."""
    kept: bool
    """Whether its weights are."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What shows that a contribution is in a version."""

    version: int
    statement: Statement
    leaf: bytes
    tree_size: int
    index: int
    path: list[bytes]
    root: bytes


class History:
    """The histories of all tasks."""

    def __init__(self, store: RoundStore, blobs: BlobStore, rounds: Rounds) -> None:
        self._store = store
        self._blobs = blobs
        self._rounds = rounds

    async def page(self, task_id: TaskId, *, size: int, token: str) -> tuple[list[Stated], str]:
        """Versions from the newest on, or from where `token` says, and what to ask for next ("" at the end).

        Raises TaskNotFound, MalformedMessage, StoredDataDamaged.
        """
        first = await self._newest(task_id)
        if token:
            if not (token.isascii() and token.isdecimal() and len(token) < 20):
                raise MalformedMessage(problem="page_token is none that was given out")
            first = min(first, int(token))
        size = min(size or DEFAULT_PAGE, MAX_PAGE)
        end = max(first - size, -1)
        found = [await self._stated(task_id, number) for number in range(first, end, -1)]
        return found, str(end) if end >= 0 else ""

    async def find(self, task_id: TaskId, number: int | None) -> Stated:
        """None: the newest. Raises TaskNotFound, VersionNotFound, StoredDataDamaged."""
        return await self._stated(task_id, await self._newest(task_id) if number is None else number)

    async def prove(self, task_id: TaskId, number: int, *, digest: str, participant_id: str) -> Proof:
        """`participant_id`: "" for whoever contributed with this digest. Raises NotInVersion, and as `find`."""
        data = await self._entry_bytes(task_id, number)
        return await off_loop(4 * len(data), _prove, task_id, data, digest, participant_id)

    async def _newest(self, task_id: TaskId) -> int:
        await self._rounds.task(task_id)
        status = await self._store.read_status(task_id)  # and opens none: asking is no reason to
        return status.number if status else await self._rounds.newest_version(task_id)

    async def _entry_bytes(self, task_id: TaskId, number: int) -> bytes:
        await self._rounds.task(task_id)  # so that TaskNotFound wins
        return await records.read_entry_bytes(self._blobs, task_id, number)

    async def _stated(self, task_id: TaskId, number: int) -> Stated:
        data = await self._entry_bytes(task_id, number)
        entry = records.decode_entry(data, name=names.ledger_entry(task_id, number))
        try:
            await records.find_weights(self._blobs, task_id, entry)
        except (VersionNotFound, StoredDataDamaged):  # what is damaged is told to those who read it
            return Stated(task_id, entry, data, kept=False)
        return Stated(task_id, entry, data, kept=True)


def _prove(task_id: TaskId, data: bytes, digest: str, participant_id: str) -> Proof:
    entry = replace(records.decode_entry(data, name="The ledger entry"), task_id=task_id)
    index = next((place for place, line in enumerate(entry.contributions) if _is(line, digest, participant_id)), None)
    if index is None:
        raise NotInVersion(digest=digest, version=entry.version)
    try:
        leaves = ledger.leaves(entry)
    except ValueError as broken:
        raise StoredDataDamaged(name=names.ledger_entry(task_id, entry.version)) from broken
    root = merkle.root(leaves)
    if entry.merkle_root and entry.merkle_root != root.hex():
        raise StoredDataDamaged(name=names.ledger_entry(task_id, entry.version))
    return Proof(
        version=entry.version,
        statement=ledger.statement(entry, entry.contributions[index]),
        leaf=leaves[index],
        tree_size=len(leaves),
        index=index,
        path=merkle.inclusion_proof(leaves, index),
        root=root,
    )


def _is(line: LedgerLine, digest: str, participant_id: str) -> bool:
    return line.digest == digest and participant_id in ("", line.participant_id)
