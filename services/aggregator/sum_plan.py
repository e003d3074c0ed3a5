"""How finely each tensor of a round is counted, and which weights fit: fixed by the base version alone.

Knows NumPy and the numbers of a model; nothing of rounds, participants or stores.

A sum counts whole units. For a tensor whose largest absolute weight in the base
version is `L` (an all-zero tensor counts as 1), with `⌈x⌉` the exponent of the
smallest power of two that is at least x, and a floor `F` that is 1 for tensors of up
to 2^16 weights and 2^−6 for larger ones:

    bound exponent   b = 10 + ⌈max(F, L)⌉     weights beyond ±2^b are refused
    cap exponent     c = ⌈weight cap⌉         the weights of a round add up to at most 2^c
    exponent         e = 62 − b − c           the unit of the high limb is 2^−e
    low exponent     s = 62 − c               the unit of the low limb is 2^−(e+s)

The low limb exists where the high one alone leaves fewer than 30 bits below the
tensor's largest weight, that is where ⌈L⌉ + e < 30. It doubles what a sum takes in
memory, so the floor of large tensors is low: with the usual cap of 2^20 they need it
below 2^−8 only. Small ones, like biases, which begin near zero and may move far, keep
room for that. A weight w then becomes

    high = round(w · 2^e)                     low = round((w · 2^e − high) · 2^s)

both rounded half to even. No sum can overflow: |w| ≤ 2^b, so |high| ≤ 2^(b+e)
= 2^(62−c), and contributions that weigh at most 2^c together add up to at most
2^62 on every way there, in any order. What is left over by `high` is at most
1/2, so |low| ≤ 2^(s−1) = 2^(61−c), and its sum stays within 2^61.

Scaling by a power of two, rounding to a whole number and taking the remainder
are exact in float32 here: |w · 2^e| ≤ 2^62 cannot overflow, the remainder of a
float32 is one, and what a subnormal result may lose (only where e < 0) is below
2^−126 and so is rounded to zero in either limb anyway.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from blobstore.records import WeightSpec
from blobstore.store import Buffer
from learning.refusals import InvalidWeights, WeightsNotFinite, WeightsOutOfBound

BLOCK = 1 << 16
"""Weights that are worked on at once: small enough for the cache, large enough to hide the calls."""

WORD_BITS = 62
HEADROOM_BITS = 10
ENOUGH_BITS = 30
LARGE_TENSOR = 1 << 16
"""Weights from which on a second limb would be felt."""
FLOOR, FLOOR_OF_LARGE = 1.0, 2.0**-6

_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)

Weights = NDArray[np.float32]


def as_weights(buffer: Buffer) -> Weights:
    """Canonical bytes (little-endian float32) as an array, without copying. Raises InvalidWeights."""
    if memoryview(buffer).nbytes % 4:
        raise InvalidWeights(problem=f"{memoryview(buffer).nbytes} bytes are no float32 values")
    return np.frombuffer(buffer, dtype="<f4")


def power_of_two_at_least(value: float) -> int:
    """The exponent of the smallest power of two that is at least `value`, for `value` above 0."""
    fraction, exponent = math.frexp(value)
    return exponent - 1 if fraction == 0.5 else exponent


@dataclass(frozen=True, slots=True)
class Scale:
    """How weights become units."""

    bound: float
    """The largest absolute weight that fits."""
    exponent: int
    low_exponent: int | None
    """None: one limb is enough."""

    @classmethod
    def for_base(cls, largest: float, weight_cap: int, *, size: int) -> Scale:
        """`largest` absolute weight of a tensor of `size` weights in the base version; 0 counts as 1."""
        largest = largest or 1.0
        floor = FLOOR_OF_LARGE if size > LARGE_TENSOR else FLOOR
        bound_exponent = HEADROOM_BITS + power_of_two_at_least(max(floor, largest))
        cap_exponent = (weight_cap - 1).bit_length()
        exponent = WORD_BITS - bound_exponent - cap_exponent
        enough = power_of_two_at_least(largest) + exponent >= ENOUGH_BITS
        return cls(
            bound=min(math.ldexp(1.0, bound_exponent), _LARGEST_FLOAT32),
            exponent=exponent,
            low_exponent=None if enough else WORD_BITS - cap_exponent,
        )


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor: how many weights, and how they are counted."""

    name: str
    size: int
    scale: Scale


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring tensors that are counted alike; a run is what loops work on."""

    start: int
    """First weight."""
    stop: int
    low_start: int
    """Place of the first weight's low limb among the low limbs."""
    scale: Scale

    def blocks(self) -> Iterator[tuple[int, int]]:
        for start in range(self.start, self.stop, BLOCK):
            yield start, min(start + BLOCK, self.stop)


@dataclass(frozen=True)
class SumPlan:
    """How a whole model is counted in a round: the same on every replica, for it follows from the base version."""

    tensors: tuple[TensorPlan, ...]
    weight_cap: int

    @classmethod
    def for_base(cls, weight_specs: Sequence[WeightSpec], base_weights: Buffer, weight_cap: int) -> SumPlan:
        """Raises InvalidWeights, WeightsNotFinite for a base version that is none."""
        base = as_weights(base_weights)
        tensors = []
        start = 0
        for spec in weight_specs:
            tensor = base[start : start + spec.size]
            start += spec.size
            largest = _largest(tensor)
            if not math.isfinite(largest):
                raise WeightsNotFinite(tensor=spec.name)
            scale = Scale.for_base(largest, weight_cap, size=spec.size)
            tensors.append(TensorPlan(name=spec.name, size=spec.size, scale=scale))
        plan = cls(tensors=tuple(tensors), weight_cap=weight_cap)
        plan._check_size(base)
        return plan

    @cached_property
    def size(self) -> int:
        """Number of weights."""
        return sum(tensor.size for tensor in self.tensors)

    @cached_property
    def low_size(self) -> int:
        """Number of weights that have a low limb."""
        return sum(tensor.size for tensor in self.tensors if tensor.scale.low_exponent is not None)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        runs: list[Run] = []
        start = low_start = 0
        for tensor in self.tensors:
            stop = start + tensor.size
            if runs and runs[-1].scale == tensor.scale:
                last = runs.pop()
                runs.append(Run(start=last.start, stop=stop, low_start=last.low_start, scale=last.scale))
            elif tensor.size:
                runs.append(Run(start=start, stop=stop, low_start=low_start, scale=tensor.scale))
            start = stop
            low_start += tensor.size if tensor.scale.low_exponent is not None else 0
        return tuple(runs)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over everything that decides what a unit is; sums of different plans are never added."""
        written = hashlib.sha256(struct.pack("<QQ", self.weight_cap, len(self.runs)))
        for run in self.runs:
            scale = run.scale
            low_exponent = -1 if scale.low_exponent is None else scale.low_exponent
            written.update(struct.pack("<QQdii", run.start, run.stop, scale.bound, scale.exponent, low_exponent))
        return written.digest()

    def check(self, weights: Buffer) -> None:
        """Refuses what may not be added. Raises InvalidWeights, WeightsNotFinite, WeightsOutOfBound."""
        values = as_weights(weights)
        self._check_size(values)
        for run in self.runs:
            bound = run.scale.bound
            for start, stop in run.blocks():
                if not _largest(values[start:stop]) <= bound:  # so that NaN fails too
                    raise self._refusal(values)

    def _check_size(self, values: Weights) -> None:
        if values.size != self.size:
            raise InvalidWeights(problem=f"{values.size} weights came, the model has {self.size}")

    def _refusal(self, values: Weights) -> WeightsNotFinite | WeightsOutOfBound:
        start = 0
        for tensor in self.tensors:
            largest = _largest(values[start : start + tensor.size])
            if not math.isfinite(largest):
                return WeightsNotFinite(tensor=tensor.name)
            if largest > tensor.scale.bound:
                return WeightsOutOfBound(tensor=tensor.name, bound=f"{tensor.scale.bound:g}")
            start += tensor.size
        raise AssertionError("a block held what no tensor holds")


def _largest(values: Weights) -> float:
    """Largest absolute value; NaN where there is one, 0 of nothing."""
    if not values.size:
        return 0.0
    lowest, highest = float(np.minimum.reduce(values)), float(np.maximum.reduce(values))
    return highest if math.isnan(highest) else max(-lowest, highest, 0.0)
