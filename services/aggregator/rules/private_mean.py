"""The mean with central differential privacy: clipped changes, whole numbers, noise. Pure: NumPy, no store.

With x a contribution, v the version that it started from, w its weight (by lateness alone), C the
clipping norm, z the noise multiplier, b the version that the next one replaces:

    change         d = x − v in float64
    unit           u = z · C · 2^−k, where k is fixed with the weight cap as the round opens
    clipped        d · min(1, C / ‖d‖) / u, each weight cut off towards zero to a whole number
    sum            S = Σ w · clipped, in int64 as any sum
    noise          N of the discrete Gaussian with σ = max(w) · 2^k, that is z · max(w) · C
    next version   b + (S + N) · u / Σ w, in float64, rounded once to float32

Take one contribution out of S, or put zeros in its place, and S moves by at most max(w) · C in length: cutting off
makes no length longer, and the lengths are shortened by 2^−40 beforehand, more than float64 errs. So S + N is a
Gaussian mechanism of noise multiplier z. Who contributed, when, and with which weight is not hidden: the ledger
states it.

k is at most 40, so that a unit is far below the noise, and so much smaller where the cap is large that no sum
can overflow: S ≤ cap · 2^k / z and N < 64 · cap · 2^k.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from blobstore.store import Buffer
from learning.privacy import CentralPrivacy
from services.aggregator.exact_sums import PartialSum
from services.aggregator.rules.clipping import square_sum
from services.aggregator.rules.gaussian_noise import GaussianNoise
from services.aggregator.sum_plan import BLOCK, SumPlan, Weights, as_weights

MAX_UNIT_BITS = 40
_SUM_BITS = 55
_SHORTER = 1 - 2.0**-40
_LARGEST = float(np.finfo(np.float32).max)

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Summed:
    """What a contribution was counted with."""

    digest: str
    base_round: int
    weight: int


def plan_of_changes(plan: SumPlan, privacy: CentralPrivacy) -> SumPlan:
    """How changes are counted where `plan` is how weights would be: in units of 2^−k of z · C; the bounds stay."""
    cap_bits = (plan.weight_cap - 1).bit_length()
    finer = max(0, math.ceil(-math.log2(privacy.noise_multiplier)))
    bits = min(MAX_UNIT_BITS, _SUM_BITS - cap_bits - finer)
    tensors = (
        replace(tensor, scale=replace(tensor.scale, exponent=bits, low_exponent=None)) for tensor in plan.tensors
    )
    return SumPlan(tensors=tuple(tensors), weight_cap=plan.weight_cap)


class ClippedSum(PartialSum):
    """The weighted sum of clipped changes, in units; what is added to it are contributions with their bases."""

    def __init__(self, plan: SumPlan, privacy: CentralPrivacy) -> None:
        super().__init__(plan)
        self._privacy = privacy

    def add_change(self, weights: Buffer, base: Buffer, weight: int) -> None:
        self._count_change(weights, base, weight)
        self.contributions += 1
        self.total_weight += weight

    def subtract_change(self, weights: Buffer, base: Buffer, weight: int) -> None:
        """Undoes `add_change` exactly."""
        self._count_change(weights, base, -weight)
        self.contributions -= 1
        self.total_weight -= weight

    def _count_change(self, weights: Buffer, base: Buffer, weight: int) -> None:
        assert self.total_weight + weight in range(self.plan.weight_cap + 1), "beyond the cap the limbs could overflow"
        values, around = as_weights(weights), as_weights(base)
        scale = _scale(self._privacy, self.plan, _length(values, around))
        for start, change in _changes(values, around):
            units = np.trunc(np.multiply(change, scale, out=change), out=change).astype(np.int64)
            self.merge_limbs(start, np.multiply(units, weight, out=units).view(np.uint8).data)


def disturb(total: PartialSum, secret: bytes, purpose: bytes, *, heaviest: int) -> None:
    """Adds the noise to a sum that holds all contributions, of which the heaviest weighs so much. Once."""
    noise = GaussianNoise(secret, purpose, deviation=heaviest << unit_bits(total.plan))
    for start in range(0, total.plan.size, BLOCK):
        count = min(BLOCK, total.plan.size - start)
        total.merge_limbs(start, noise.draw(count).view(np.uint8).data)


def purpose_of(
    task_id: str, round: int, base_digest: str, *, privacy: CentralPrivacy, plan: SumPlan, summed: Iterable[Summed]
) -> bytes:
    """Names the noise of a round: another sum has another name, and the same sum the same, in whatever order."""
    named = hashlib.sha256(task_id.encode() + b"\0" + struct.pack(">Q", round) + bytes.fromhex(base_digest))
    named.update(struct.pack(">ddI", privacy.clipping_norm, privacy.noise_multiplier, unit_bits(plan)))
    for each in sorted(summed, key=lambda each: (each.digest, each.base_round, each.weight)):
        named.update(bytes.fromhex(each.digest) + struct.pack(">QQ", each.base_round, each.weight))
    return named.digest()


def means(total: PartialSum, base: Buffer, privacy: CentralPrivacy) -> Iterator[tuple[int, int, Numbers]]:
    """The base plus the mean change, in blocks: from which weight to which, and an array that is reused."""
    around, deviation = as_weights(base), privacy.noise_multiplier * privacy.clipping_norm
    for start, stop, quotients in total.quotients():
        np.multiply(quotients, deviation, out=quotients)
        yield start, stop, np.add(quotients, around[start:stop], out=quotients)


def rounded(total: PartialSum, base: Buffer, privacy: CentralPrivacy) -> memoryview:
    """`means` as canonical bytes. What would leave the range of float32 stays at its end."""
    weights: Weights = np.empty(total.plan.size, dtype="<f4")
    for start, stop, block in means(total, base, privacy):
        weights[start:stop] = np.clip(block, -_LARGEST, _LARGEST)
    return weights.view(np.uint8).data


def unit_bits(plan: SumPlan) -> int:
    """k of a plan of changes."""
    bits = {tensor.scale.exponent for tensor in plan.tensors}
    assert len(bits) == 1, "a plan of changes counts all tensors alike"
    return bits.pop()


def _scale(privacy: CentralPrivacy, plan: SumPlan, length: float) -> float:
    """Units in a change of length 1, once it is clipped."""
    clipped = min(1.0, privacy.clipping_norm / length) if length else 1.0
    return clipped * _SHORTER / privacy.clipping_norm / privacy.noise_multiplier * 2.0 ** unit_bits(plan)


def _length(values: Weights, around: Weights) -> float:
    return math.sqrt(math.fsum(square_sum(change) for _, change in _changes(values, around)))


def _changes(values: Weights, around: Weights) -> Iterator[tuple[int, Numbers]]:
    """x − v in float64, in blocks, with the place of each."""
    for start in range(0, values.size, BLOCK):
        stop = min(start + BLOCK, values.size)
        yield start, np.subtract(values[start:stop], around[start:stop], dtype=np.float64)
