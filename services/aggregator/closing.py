"""Closes a round: adds all partial sums, divides, publishes the version, opens the next round.

Knows when nothing of that (the coordinator does). Every step follows from what is stored
and frozen, so any replica may repeat any of them at any time, also two at once:

    start_closing     a lease keeps others from doing the same work, no more hangs on it; and the round is read
    read, add, divide the round is frozen; its sums are read again until they have their digests. The one that this
                      replica has in memory still is not read: it is what was written, as its pointer tells
                      Where the rule needs every single contribution, those are read, and no sum
                      Where somebody rolls back, the weights of an older version are read instead
    noise             where the task asks for privacy: from a secret and from what was added, so again the same
    step              where the task has a server optimizer; its next state is written under its digest
    write_version     the weights by their digest, then the ledger entry: the same bytes from whoever writes.
                      An entry that exists is never written again: versions do not change
    finish_closing    one compare-and-swap; whoever comes second finds the round moved on, and is done
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from blobstore import ledger, names, records
from blobstore.records import LedgerEntry, LedgerLine, Rollback
from blobstore.store import BlobExists, BlobMissing, BlobStore, Buffer
from learning.federated import Admission, NotDue, RoundMoved, RoundStatus, State
from learning.ids import ReplicaId, TaskId
from learning.refusals import StoredDataDamaged
from roundstore.store import ClosingRound, RoundStore, SumPointer
from rpc.off_loop import off_loop
from services.aggregator.exact_sums import NotASum, PartialSum, SumDigest, SumHeader
from services.aggregator.fresh_versions import FreshVersion
from services.aggregator.metrics import AggregatorMetrics
from services.aggregator.next_weights import NextWeights, NextWeightsMaker
from services.aggregator.privacy_accounts import PrivacyAccounts
from services.aggregator.rounds import Rounds
from services.aggregator.salvage import Salvage
from services.aggregator.sum_plan import SumPlan
from services.aggregator.unreadable import Unreadable

LEASE_S = 10.0
LEASE_BYTES_PER_S = 16 << 20
"""A model of so many bytes makes the lease a second longer."""
NOISE_BYTES_PER_S = 1 << 20
"""Likewise where noise is drawn for it."""
READ_ATTEMPTS = 3
READ_PAUSE_S = 0.2
CHUNK_BYTES = 4 << 20
HASHED_BYTES = 1024
"""Hashing one contribution into the Merkle root takes about as long as going over so many bytes."""
_log = structlog.stdlib.get_logger("aggregator")


class Closing:
    """Closes rounds in the name of one replica.

    `leased` is told of every round that collects no more because this replica closes it. `held` gives away a sum that
    this replica has in memory still, so that it need not be read.
    """

    def __init__(
        self,
        store: RoundStore,
        blobs: BlobStore,
        rounds: Rounds,
        accounts: PrivacyAccounts,
        *,
        salvage: Salvage,
        replica_id: ReplicaId,
        metrics: AggregatorMetrics,
        clock: Callable[[], float],
        leased: Callable[[RoundStatus], None] = lambda _: None,
        held: Callable[[TaskId, SumPointer], PartialSum | None] = lambda _, __: None,
        lease_s: float = LEASE_S,
        read_pause_s: float = READ_PAUSE_S,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._rounds = rounds
        self._salvage = salvage
        self._next_weights = NextWeightsMaker(blobs, rounds, accounts)
        self._replica_id = replica_id
        self._metrics = metrics
        self._clock = clock
        self._leased = leased
        self._held = held
        self._lease_s = lease_s
        self._read_pause_s = read_pause_s

    def is_ours(self, status: RoundStatus) -> bool:
        """Whether this replica holds the lease, and so may go on where it was interrupted."""
        return (
            status.state is State.AGGREGATING
            and status.closer == self._replica_id
            and status.closer_until is not None
            and self._clock() < status.closer_until
        )

    async def close(self, status: RoundStatus) -> bool:
        """Closes a round that is due; False where somebody else does, or did.

        Raises StoredDataDamaged, StoreUnavailable; the round then stays as it is, and closing it may be tried again.
        """
        started = self._clock()
        try:
            if self.is_ours(status):
                closing = await self._read(status)
            else:
                closing = await self._lease(status)
            contributions, ever = await self._publish(closing)
            after = await self._store.finish_closing(
                status.task_id,
                epoch=status.epoch,
                number=status.number,
                contributions=contributions,
                contributions_ever=ever,
            )
        except (NotDue, RoundMoved):
            return False
        self._rounds.saw(after)
        seconds = self._clock() - started
        self._metrics.rounds_closed.inc()
        self._metrics.closing_seconds.observe(seconds)
        _log.info(
            "round.closed",
            task_id=status.task_id,
            number=status.number,
            contributions=contributions,
            seconds=round(seconds, 4),
        )
        return True

    async def lease_s(self, task_id: TaskId) -> float:
        """How long a closer of this task may take."""
        known = await self._rounds.task(task_id)
        noise_s = known.model_bytes / NOISE_BYTES_PER_S if known.aggregation.privacy else 0.0
        return self._lease_s + known.model_bytes / LEASE_BYTES_PER_S + noise_s

    async def _lease(self, status: RoundStatus) -> ClosingRound:
        """Raises NotDue, StoredDataDamaged."""
        lease_s, now = await self.lease_s(status.task_id), self._clock()
        closing = await self._store.start_closing(
            status.task_id,
            epoch=status.epoch,
            number=status.number,
            closer=self._replica_id,
            until=now + lease_s,
            now=now,
        )
        self._rounds.saw(closing.status)
        self._leased(closing.status)
        return closing

    async def _read(self, status: RoundStatus) -> ClosingRound:
        """Raises RoundMoved, StoredDataDamaged."""
        return await self._store.read_closing(status.task_id, epoch=status.epoch, number=status.number)

    async def _publish(self, closing: ClosingRound) -> tuple[int, int]:
        """Makes sure that the version exists; how many contributions it counts, and how many with those before it.

        Raises RoundMoved, StoredDataDamaged.
        """
        status, attempts_left = closing.status, READ_ATTEMPTS
        while True:
            is_written = await self._rounds.has_next_entry(closing.status)
            if is_written and await self._rounds.is_behind(closing.status):
                return await self._published_before(closing)
            try:
                # An entry that is there all the same is no version, but what a loss of power left.
                return await self._make_version(closing, replace=is_written)
            except BlobExists:
                pass  # the round store forgot this round while it was closed, and its successor was faster
            except Unreadable as unreadable:
                # Perhaps the round moved on and its sums are deleted; reading the round again says so.
                _log.error("sum.damaged", task_id=status.task_id, number=status.number, blob=unreadable.blob)
                attempts_left -= 1
                if not attempts_left and await self._salvage.went_on(closing):
                    raise RoundMoved from None
                if not attempts_left:
                    raise StoredDataDamaged(name=unreadable.blob) from unreadable
                await asyncio.sleep(self._read_pause_s)
            closing = await self._read(status)

    async def _published_before(self, closing: ClosingRound) -> tuple[int, int]:
        """The version exists: by an earlier attempt at closing, or because the store forgot a round that was closed."""
        status = closing.status
        entry = await records.read_ledger_entry(self._blobs, status.task_id, status.number + 1)
        counted = set(entry.contributions)
        missing = [line.participant_id for line in _lines(closing.admissions) if line not in counted]
        if missing:
            _log.error(
                "round.repeated",
                task_id=status.task_id,
                number=status.number,
                not_counted=len(missing),
                because="the round store lost its newest writes, and the version it was to make exists",
            )
        return _counted(entry, status)

    async def _merged(self, closing: ClosingRound) -> PartialSum:
        """The sum of all contributions. Raises Unreadable, StoredDataDamaged."""
        status = closing.status
        plan = await self._rounds.plan(status)
        merged, left = self._begun(plan, closing)
        for pointer in left:
            await self._merge(merged, pointer, status)
        expected = len(closing.admissions), status.total_weight
        if (merged.contributions, merged.total_weight) != expected:
            raise StoredDataDamaged(name=f"Round {status.number} of {status.task_id}")
        return merged

    def _begun(self, plan: SumPlan, closing: ClosingRound) -> tuple[PartialSum, list[SumPointer]]:
        """The sum that this replica has in memory still, or an empty one; and those that are to be read."""
        for pointer in closing.sums:
            held = self._held(closing.status.task_id, pointer)
            if held is not None and held.plan.digest == plan.digest:
                return held, [other for other in closing.sums if other is not pointer]
        return PartialSum(plan), list(closing.sums)

    async def _merge(self, merged: PartialSum, pointer: SumPointer, status: RoundStatus) -> None:
        """Adds a written sum, piece by piece: no second one is held. Raises Unreadable; `merged` is void then."""
        reader = _SumReader(merged)
        try:
            async for chunk in self._blobs.read_chunks(pointer.blob, chunk_size=CHUNK_BYTES):
                await off_loop(len(chunk), reader.read, chunk)
        except (BlobMissing, NotASum) as broken:
            raise Unreadable(pointer.blob) from broken
        expected = SumHeader(
            plan_digest=merged.plan.digest,
            # Of a round that was collected before, and is again because its version is lost, that of before.
            epoch=reader.header.epoch if reader.header else "",
            round=status.number,
            contributions=pointer.contributions,
            total_weight=pointer.total_weight,
            limbs=merged.plan.size + merged.plan.low_size,
        )
        if reader.digest != pointer.digest or reader.header != expected:
            raise Unreadable(pointer.blob)

    async def _next(self, closing: ClosingRound) -> NextWeights:
        """Raises Unreadable, RoundMoved, StoredDataDamaged."""
        known = await self._rounds.task(closing.status.task_id)
        if known.aggregation.needs_contributions:
            return await self._next_weights.of_contributions(closing)
        return await self._next_weights.of_sum(closing, await self._merged(closing))

    async def _make_version(self, closing: ClosingRound, *, replace: bool) -> tuple[int, int]:
        """As `_publish`. Raises BlobExists, Unreadable, RoundMoved, StoredDataDamaged."""
        status, restoring = closing.status, closing.status.restoring
        if restoring is None:
            made = await self._next(closing)
            assert status.first_contribution_at is not None, "a round that is due has contributions"
            # And not now: whoever closes the round writes the same bytes.
            return await self._write(
                closing,
                made.weights,
                replace=replace,
                digest=made.digest,
                create_time=status.first_contribution_at,
                rule=made.rule,
                state_digest=made.state_digest,
                privacy=made.privacy,
            )
        restored = await records.read_ledger_entry(self._blobs, status.task_id, restoring.version)
        weights = await records.read_weights(self._blobs, status.task_id, restored)
        # Before the entry, so that a version is always found by the request that asked for it.
        request = names.rollback(status.task_id, restoring.request_id)
        await self._blobs.write(request, [records.encode(Rollback(version=status.number + 1))])
        return await self._write(
            closing,
            weights,
            replace=replace,
            digest=restored.digest,
            create_time=restoring.asked_at,
            rule="restore",
            restores=restoring.version,
            request_id=restoring.request_id,
        )

    async def _write(
        self, closing: ClosingRound, weights: Buffer, *, replace: bool, digest: str, create_time: float, **more: Any
    ) -> tuple[int, int]:
        status = closing.status
        before = await records.read_entry_bytes(self._blobs, status.task_id, status.number)
        base = records.decode_entry(before, name=names.ledger_entry(status.task_id, status.number))
        ever = status.contributions_ever if base.contributions_ever is None else base.contributions_ever
        lines = tuple(_lines(closing.admissions))
        more.setdefault("privacy", base.privacy)  # what was spent stays spent
        entry = LedgerEntry(
            version=status.number + 1,
            digest=digest,
            base_digest=base.digest,
            create_time=create_time,
            total_weight=status.total_weight,
            weight_cap=status.weight_cap,
            contributions=lines,
            task_id=status.task_id,
            previous=ledger.digest_of_entry(before),
            contributions_ever=ever + len(lines),
            lost=tuple(line for line in _lines(closing.lost) if line not in lines),
            **more,
        )
        entry = await off_loop(HASHED_BYTES * len(entry.contributions), ledger.with_root, entry)
        await records.write_version(self._blobs, status.task_id, weights, entry, replace=replace)
        if entry.privacy is not None:
            # Before anybody is told of it: what was seen and then lost would have spent what no ledger states.
            await self._blobs.settle()
        octets = memoryview(weights).cast("B")
        self._rounds.fresh.keep(status.task_id, FreshVersion(status.epoch, entry.version, digest, octets))
        return _counted(entry, status)


class _SumReader:
    """Adds a written sum to another one, chunk by chunk, and takes its digest."""

    def __init__(self, merged: PartialSum) -> None:
        self.header: SumHeader | None = None
        self._merged = merged
        self._digest = SumDigest()
        self._limbs_read = 0

    def read(self, chunk: bytes) -> None:
        """Raises NotASum. Chunks are multiples of eight bytes long, except for the last."""
        self._digest.update(chunk)
        limbs: Buffer = chunk
        if self.header is None:
            self.header = SumHeader.decode(chunk)
            self._merged.merge_header(self.header)
            limbs = memoryview(chunk)[self.header.size :]
        self._merged.merge_limbs(self._limbs_read, limbs)
        self._limbs_read += len(limbs) // 8

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


def _counted(entry: LedgerEntry, status: RoundStatus) -> tuple[int, int]:
    """How many contributions a version counts, and how many with those before it."""
    count, ever = len(entry.contributions), entry.contributions_ever
    return count, status.contributions_ever + count if ever is None else ever


def _lines(admissions: Iterable[Admission]) -> list[LedgerLine]:
    return [
        LedgerLine(
            participant_id=admission.participant_id,
            digest=admission.digest,
            base_round=admission.base_round,
            weight=admission.weight,
            position=admission.position,
        )
        for admission in admissions
    ]
