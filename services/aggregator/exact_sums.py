"""Partial sums of contributions: whole numbers, so that their order and their split over replicas leave no trace.

Knows NumPy and a `SumPlan`; nothing of rounds but the numbers a header carries.
Nothing is checked here that `SumPlan.check` has checked: what is added must fit.

A written sum is a header and the limbs, all little-endian:

    8 bytes    magic "DISCOSUM"              8 bytes   contributions
    4 bytes    format version, 1             8 bytes   total weight
    4 bytes    length of the epoch           8 bytes   number of limbs
    32 bytes   digest of the plan            …         epoch, UTF-8, filled with zeros to 8 bytes
    8 bytes    number of the round           …         int64: all high limbs, then all low limbs
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import xxhash
from numpy.typing import NDArray

from blobstore.store import Buffer
from services.aggregator.sum_plan import BLOCK, Run, SumPlan, Weights, as_weights

SumDigest = xxhash.xxh3_128
"""What tells a written sum from another one, or from a torn one: nobody has to forge it to lie, who can write both
the sum and its pointer, and SHA-256 would cost more than everything else that is done with a sum."""

_MAGIC = b"DISCOSUM"
_FORMAT = 1
_HEADER = struct.Struct("<8sII32sQQQQ")
_MAX_EPOCH_BYTES = 1024

Limbs = NDArray[np.int64]
_Block = tuple[Run, int, int]
"""Neighbouring weights that are counted alike: from which to which."""


class NotASum(Exception):
    """The bytes are no partial sum, or not one of this plan."""


@dataclass(frozen=True, slots=True)
class SumHeader:
    """What a written sum says of itself."""

    plan_digest: bytes
    epoch: str
    round: int
    contributions: int
    total_weight: int
    limbs: int

    @property
    def size(self) -> int:
        """In bytes; the limbs begin there."""
        return _HEADER.size + -(-len(self.epoch.encode()) // 8) * 8

    def encode(self) -> bytes:
        epoch = self.epoch.encode()
        assert len(epoch) <= _MAX_EPOCH_BYTES, "epochs are given by the round store and short"
        fixed = _HEADER.pack(
            _MAGIC,
            _FORMAT,
            len(epoch),
            self.plan_digest,
            self.round,
            self.contributions,
            self.total_weight,
            self.limbs,
        )
        return (fixed + epoch).ljust(self.size, b"\0")

    @classmethod
    def decode(cls, start: Buffer) -> SumHeader:
        """Reads the header off the start of a written sum. Raises NotASum."""
        if memoryview(start).nbytes < _HEADER.size:
            raise NotASum
        magic, written_format, epoch_size, plan_digest, *numbers = _HEADER.unpack_from(start)
        if magic != _MAGIC or written_format != _FORMAT or epoch_size > _MAX_EPOCH_BYTES:
            raise NotASum
        try:
            epoch = bytes(memoryview(start)[_HEADER.size : _HEADER.size + epoch_size]).decode()
        except UnicodeDecodeError:
            raise NotASum from None
        return cls(plan_digest, epoch, *numbers)


class PartialSum:
    """The weighted sum of some contributions."""

    def __init__(self, plan: SumPlan) -> None:
        self.plan = plan
        self.contributions = 0
        self.total_weight = 0
        self._limbs: Limbs = np.zeros(plan.size + plan.low_size, dtype="<i8")

    def add(self, weights: Buffer, weight: int) -> None:
        """Adds a contribution that the plan has checked, `weight` times."""
        self.begin_adding([(weights, weight)]).add_all()

    def subtract(self, weights: Buffer, weight: int) -> None:
        """Undoes `add` exactly."""
        self.begin_subtracting([(weights, weight)]).add_all()

    def begin_adding(self, contributions: Sequence[tuple[Buffer, int]]) -> Adding:
        """Counts contributions that the plan has checked, each with its weight; the sum is whole once all pieces are
        added."""
        assert all(weight > 0 for _, weight in contributions), "weights are whole numbers from 1 on"
        total = self.total_weight + sum(weight for _, weight in contributions)
        assert total <= self.plan.weight_cap, "beyond the cap the limbs could overflow"
        self.contributions += len(contributions)
        self.total_weight = total
        return Adding(self.plan, self._limbs, [(as_weights(weights), weight) for weights, weight in contributions])

    def begin_subtracting(self, contributions: Sequence[tuple[Buffer, int]]) -> Adding:
        """Undoes `begin_adding` exactly."""
        total = self.total_weight - sum(weight for _, weight in contributions)
        assert total >= 0, "only what was added can be taken out"
        self.contributions -= len(contributions)
        self.total_weight = total
        return Adding(self.plan, self._limbs, [(as_weights(weights), -weight) for weights, weight in contributions])

    def merge(self, other: PartialSum) -> None:
        """Adds all contributions of another sum of the same plan."""
        assert other.plan.digest == self.plan.digest, "sums of different plans count in different units"
        self._count(other.contributions, other.total_weight)
        np.add(self._limbs, other._limbs, out=self._limbs)

    def merge_header(self, header: SumHeader) -> None:
        """Begins to add a written sum; `merge_limbs` goes on. Raises NotASum where it is not one of this plan."""
        if header.plan_digest != self.plan.digest or header.limbs != self._limbs.size:
            raise NotASum
        self._count(header.contributions, header.total_weight)

    def merge_limbs(self, position: int, limbs: Buffer) -> None:
        """Adds the piece of a written sum that begins with limb `position`. Raises NotASum where it goes beyond."""
        count, rest = divmod(memoryview(limbs).nbytes, 8)
        if rest or position + count > self._limbs.size:
            raise NotASum
        mine = self._limbs[position : position + count]
        np.add(mine, np.frombuffer(limbs, dtype="<i8"), out=mine)

    def to_parts(self, *, epoch: str, round: int) -> list[Buffer]:
        """The sum as bytes: its header, and its limbs without copying them (write them before the next `add`)."""
        return [self.header(epoch=epoch, round=round).encode(), _octets(self._limbs)]

    def header(self, *, epoch: str, round: int) -> SumHeader:
        return SumHeader(
            plan_digest=self.plan.digest,
            epoch=epoch,
            round=round,
            contributions=self.contributions,
            total_weight=self.total_weight,
            limbs=self._limbs.size,
        )

    @classmethod
    def from_bytes(cls, plan: SumPlan, written: Buffer) -> tuple[SumHeader, PartialSum]:
        """A written sum, and what its header says. Raises NotASum."""
        header = SumHeader.decode(written)
        read = cls(plan)
        read.merge_header(header)
        limbs = memoryview(written).cast("B")[header.size :]
        if limbs.nbytes != read._limbs.nbytes:
            raise NotASum
        read.merge_limbs(0, limbs)
        return header, read

    def mean(self) -> memoryview:
        """The sum divided by its total weight, as canonical bytes: rounded once to float32. A mean of 0 is +0.0."""
        dividing = self.begin_dividing()
        for piece in dividing.pieces(1):
            piece()
        return dividing.mean

    def begin_dividing(self) -> Dividing:
        """The mean is whole once all pieces are done; the sum must not change until then."""
        return Dividing(self)

    def quotients(self) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
        """The sum divided by its total weight, in blocks: from which weight to which, and an array that is reused.

        In float64, one rounding after each step, all of them IEEE 754's nearest-even:
        each limb is converted and divided by the total weight; the low quotient is scaled by
        2^−s (exactly) and added to the high one; the result is scaled by 2^−e (exactly).
        """
        (blocks,) = _split(self.plan, 1)
        return self.quotients_of(blocks)

    def quotients_of(self, blocks: Sequence[_Block]) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
        assert self.total_weight > 0, "nothing was added"
        quotients = np.empty(min(BLOCK, self.plan.size), dtype=np.float64)
        low_quotients = np.empty_like(quotients)
        for run, start, stop in blocks:
            high = np.divide(self._limbs[start:stop], self.total_weight, out=quotients[: stop - start])
            if run.scale.low_exponent is not None:
                limbs = _low(self.plan, self._limbs, run, start, stop)
                low = np.divide(limbs, self.total_weight, out=low_quotients[: stop - start])
                np.multiply(low, 2.0**-run.scale.low_exponent, out=low)
                np.add(high, low, out=high)
            yield start, stop, np.multiply(high, 2.0**-run.scale.exponent, out=high)

    def _count(self, contributions: int, total_weight: int) -> None:
        if total_weight > self.plan.weight_cap - self.total_weight:
            raise NotASum
        self.contributions += contributions
        self.total_weight += total_weight


class Adding:
    """Contributions on their way into a sum, in pieces that may be added side by side: no two touch the same limbs.

    Block by block all contributions are added, so that the limbs of a block stay in the cache until all are.
    """

    def __init__(self, plan: SumPlan, limbs: Limbs, contributions: Sequence[tuple[Weights, int]]) -> None:
        self._plan = plan
        self._limbs = limbs
        self._contributions = contributions

    def pieces(self, count: int) -> list[Callable[[], None]]:
        """Up to `count` pieces of about the same size; what each of them does."""
        return [partial(self._add, blocks) for blocks in _split(self._plan, count)]

    def add_all(self) -> None:
        for piece in self.pieces(1):
            piece()

    def _add(self, blocks: Sequence[_Block]) -> None:
        scratch = _Scratch(max((stop - start for _, start, stop in blocks), default=0))
        for run, start, stop in blocks:
            scale = np.float32(2.0**run.scale.exponent)
            low_scale = np.float32(2.0 ** (run.scale.low_exponent or 0))
            high = self._limbs[start:stop]
            low = None if run.scale.low_exponent is None else _low(self._plan, self._limbs, run, start, stop)
            for values, weight in self._contributions:
                scaled = np.multiply(values[start:stop], scale, out=scratch.scaled[: stop - start])
                whole = np.rint(scaled, out=scratch.whole[: stop - start])
                rest = None if low is None else np.subtract(scaled, whole, out=scaled)
                scratch.add_units(high, whole, weight)
                if low is not None and rest is not None:
                    np.rint(np.multiply(rest, low_scale, out=rest), out=rest)
                    scratch.add_units(low, rest, weight)


class Dividing:
    """The mean of a sum that is being divided, in pieces that may be done side by side."""

    def __init__(self, sum: PartialSum) -> None:
        self._sum = sum
        self._mean: Weights = np.empty(sum.plan.size, dtype="<f4")

    @property
    def mean(self) -> memoryview:
        return _octets(self._mean)

    def pieces(self, count: int) -> list[Callable[[], None]]:
        """Up to `count` pieces of about the same size; what each of them does."""
        return [partial(self._divide, blocks) for blocks in _split(self._sum.plan, count)]

    def _divide(self, blocks: Sequence[_Block]) -> None:
        for start, stop, quotients in self._sum.quotients_of(blocks):
            self._mean[start:stop] = quotients


class _Scratch:
    """Room for one block of weights on its way into the limbs."""

    def __init__(self, size: int) -> None:
        self.scaled = np.empty(size, dtype=np.float32)
        self.whole = np.empty(size, dtype=np.float32)
        self._units = np.empty(size, dtype=np.int64)

    def add_units(self, limbs: Limbs, whole: Weights, weight: int) -> None:
        """Adds whole numbers, `weight` times; they may be changed."""
        units = self._units[: whole.size]
        doublings = abs(weight).bit_count() == 1
        if doublings and weight != 1:
            # Exact in float32, as any power of two, and half the bytes of the same in int64.
            np.multiply(whole, np.float32(weight), out=whole)
        np.copyto(units, whole, casting="unsafe")  # whole numbers within ±2^62: exact
        if not doublings:
            np.multiply(units, weight, out=units)
        np.add(limbs, units, out=limbs)


def _split(plan: SumPlan, count: int) -> list[list[_Block]]:
    """All blocks of a plan in up to `count` pieces of about the same size."""
    blocks = [(run, start, stop) for run in plan.runs for start, stop in run.blocks()]
    share = max(1, -(-len(blocks) // count))
    return [blocks[first : first + share] for first in range(0, max(1, len(blocks)), share)]


def _low(plan: SumPlan, limbs: Limbs, run: Run, start: int, stop: int) -> Limbs:
    """The low limbs of weights of a run that has them."""
    offset = plan.size + run.low_start - run.start
    return limbs[offset + start : offset + stop]


def _octets(array: Limbs | Weights) -> memoryview:
    return array.view(np.uint8).data
