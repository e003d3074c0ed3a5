"""The mean that the server promises, computed a second time: with Python's whole numbers, from the words of the design.

Each weight is scaled by a power of two, rounded to a whole number (half to
even), multiplied by the contribution's weight and added; the sum is divided in
float64 and the result rounded once to float32. The exponent is fixed per tensor
by the base version: 62 bits, less the bits of the bound (2^10 times the largest
absolute weight of the tensor, at least 1, or 1/64 in tensors of more than 2^16 weights),
less the bits of the cap on the round's total weight. Where fewer than 30 bits would be left below the tensor's
largest weight, a second whole number holds what the first leaves over, in units
that are finer by 62 bits less those of the cap; its quotient is added to the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

HEADROOM_BITS = 10
SUM_BITS = 62
WANTED_BITS = 30


def exact_mean(base: bytes, sizes: Sequence[int], contributions: Sequence[tuple[bytes, int]], weight_cap: int) -> bytes:
    """The next version's weights, from the base version's, the tensors' sizes and (weights, weight) of everyone."""
    start = 0
    mean: list[bytes] = []
    for size in sizes:
        part = slice(4 * start, 4 * (start + size))
        tensors = [(np.frombuffer(weights[part], "<f4"), weight) for weights, weight in contributions]
        mean.append(_mean_of_tensor(np.frombuffer(base[part], "<f4"), tensors, weight_cap))
        start += size
    assert 4 * start == len(base)
    return b"".join(mean)


def _bits(number: int | float) -> int:
    """The smallest b with number <= 2^b."""
    mantissa, exponent = math.frexp(number)
    return exponent - 1 if mantissa == 0.5 else exponent


def _mean_of_tensor(base: np.ndarray, tensors: list[tuple[np.ndarray, int]], weight_cap: int) -> bytes:
    largest = float(np.abs(base).max(initial=0.0)) or 1.0
    floor = 1 / 64 if base.size > 1 << 16 else 1.0
    exponent = SUM_BITS - (_bits(max(floor, largest)) + HEADROOM_BITS) - _bits(weight_cap)
    finer = SUM_BITS - _bits(weight_cap)
    two_limbs = _bits(largest) + exponent < WANTED_BITS
    total = float(sum(weight for _, weight in tensors))
    mean = np.empty(len(base), "<f4")
    for index in range(len(base)):
        high = low = 0
        for values, weight in tensors:
            scaled = Fraction(float(values[index])) * 2**exponent
            high += weight * round(scaled)
            low += weight * round((scaled - round(scaled)) * 2**finer)
        quotient = float(high) / total
        if two_limbs:
            quotient += float(low) / total * 2.0**-finer
        mean[index] = np.float32(quotient * 2.0**-exponent)
    return mean.tobytes()
