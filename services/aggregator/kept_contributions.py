"""From the contributions of a round, each in its blob, to the weights of the next version.

Knows the blob store and in which pieces to read; the arithmetic is in
`services.aggregator.rules`. Contributions are taken in the order of their digests and
weights, not in that of their arrival: so order, replicas and repetitions leave no trace.
Every pass takes the digest of what it reads. Memory is a few times the model, or
`READ_AT_ONCE_BYTES` where that is more, however many contributions there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import numpy as np

from blobstore import names, records
from blobstore.store import BlobMissing, BlobStore
from learning.aggregation import Aggregation, AggregationRule
from learning.federated import Admission, RoundMoved, RoundStatus
from learning.refusals import StoredDataDamaged, VersionNotFound
from roundstore.store import ClosingRound
from rpc.off_loop import off_loop
from services.aggregator.rules import weight_by_weight
from services.aggregator.rules.clipping import Length, Pull, quantile
from services.aggregator.rules.weight_by_weight import Numbers
from services.aggregator.sum_plan import BLOCK, Weights, as_weights
from services.aggregator.unreadable import Unreadable

PIECE_BYTES = 16 * 4 * BLOCK
READ_AT_ONCE_BYTES = 32 << 20
"""Of all contributions together, where they are read side by side."""


class KeptContributions:
    """The contributions to one round."""

    def __init__(
        self, blobs: BlobStore, closing: ClosingRound, *, size: int, read_at_once: int = READ_AT_ONCE_BYTES
    ) -> None:
        self._blobs = blobs
        self._status = closing.status
        self._admissions = sorted(closing.admissions, key=lambda admission: (admission.digest, admission.weight))
        self._size = size
        self._read_at_once = read_at_once

    async def combined(self, aggregation: Aggregation) -> Weights:
        """The next weights. Raises Unreadable, RoundMoved, StoredDataDamaged."""
        status = self._status
        if sum(admission.weight for admission in self._admissions) != status.total_weight:
            raise StoredDataDamaged(name=f"Round {status.number} of {status.task_id}")
        if aggregation.rule is AggregationRule.CENTERED_CLIPPING:
            return (await self._clipped(aggregation)).astype("<f4")
        return await self._weight_by_weight(aggregation)

    async def _weight_by_weight(self, aggregation: Aggregation) -> Weights:
        for admission in self._admissions:
            if await self._bytes_of(admission) != 4 * self._size:
                raise Unreadable(self._name(admission))
        count, combined = len(self._admissions), np.empty(self._size, dtype="<f4")
        weights = [admission.weight for admission in self._admissions]
        digests = [hashlib.sha256() for _ in self._admissions]
        width = max(1, min(self._size, self._read_at_once // (4 * count)))
        for start in range(0, self._size, width):
            stop = min(start + width, self._size)
            side_by_side: Weights = np.empty((count, stop - start), dtype="<f4")
            for row, admission, digest in zip(side_by_side, self._admissions, digests, strict=True):
                piece = await self._range(admission, start=4 * start, size=4 * (stop - start))
                await off_loop(len(piece), digest.update, piece)
                row[:] = as_weights(piece)
            combined[start:stop] = await off_loop(
                side_by_side.nbytes, weight_by_weight.combined, aggregation, side_by_side, weights
            )
        for admission, digest in zip(self._admissions, digests, strict=True):
            if digest.hexdigest() != admission.digest:
                raise Unreadable(self._name(admission))
        return combined

    async def _clipped(self, aggregation: Aggregation) -> Numbers:
        around = await self._base()
        radius = aggregation.radius
        for _ in range(int(aggregation.number("iterations"))):
            lengths = [await self._length(admission, around) for admission in self._admissions]
            if radius is None:
                radius = quantile(lengths, aggregation.number("radius_quantile"))
            pull = Pull(around, radius=radius, total_weight=self._status.total_weight)
            for admission, length in zip(self._admissions, lengths, strict=True):
                async for start, piece in self._pieces(admission):
                    await off_loop(piece.nbytes, pull.add, start, piece, weight=admission.weight, length=length)
            pull.apply()
        return around

    async def _length(self, admission: Admission, around: Numbers) -> float:
        length = Length(around)
        async for start, piece in self._pieces(admission):
            await off_loop(piece.nbytes, length.add, start, piece)
        return length.value()

    async def _base(self) -> Numbers:
        status: RoundStatus = self._status
        entry = await records.read_ledger_entry(self._blobs, status.task_id, status.number)
        try:
            base = await records.read_weights(self._blobs, status.task_id, entry)
        except VersionNotFound:
            raise RoundMoved from None  # so many rounds were closed since that it is no longer kept
        return as_weights(base).astype(np.float64)

    async def _pieces(self, admission: Admission) -> AsyncIterator[tuple[int, Weights]]:
        """All of a contribution, and where each piece begins; the last one only if the digest is right."""
        name, digest, start = self._name(admission), hashlib.sha256(), 0
        try:
            async for chunk in self._blobs.read_chunks(name, chunk_size=PIECE_BYTES):
                await off_loop(len(chunk), digest.update, chunk)
                stop = start + len(chunk) // 4
                if (
                    len(chunk) % 4
                    or stop > self._size
                    or (stop == self._size and digest.hexdigest() != admission.digest)
                ):
                    raise Unreadable(name)
                yield start, as_weights(chunk)
                start = stop
        except BlobMissing:
            raise Unreadable(name) from None
        if start != self._size:
            raise Unreadable(name)

    async def _bytes_of(self, admission: Admission) -> int:
        try:
            return await self._blobs.size(self._name(admission))
        except BlobMissing:
            raise Unreadable(self._name(admission)) from None

    async def _range(self, admission: Admission, *, start: int, size: int) -> bytes:
        name = self._name(admission)
        try:
            piece = await self._blobs.read_range(name, start=start, size=size)
        except BlobMissing:
            raise Unreadable(name) from None
        if len(piece) != size:
            raise Unreadable(name)
        return piece

    def _name(self, admission: Admission) -> str:
        return names.contribution(self._status.task_id, self._status.number, admission.digest)
