"""The mean a second time, without NumPy: Python's whole numbers and fractions, one weight after the other."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from fractions import Fraction

Contributed = tuple[Sequence[float], int]
"""The weights of a tensor (float32 values) and the contribution's weight."""


def at_least(value: Fraction) -> int:
    """Exponent of the smallest power of two that is at least `value`."""
    exponent = -200
    while Fraction(2) ** exponent < value:
        exponent += 1
    return exponent


def exponents(base: Sequence[float], weight_cap: int, *, size: int | None = None) -> tuple[int, int | None]:
    """The unit of the high limb and that of the low limb, as exponents, from the words of the rule.

    `size`: how many weights the tensor has, where `base` is not all of them.
    """
    largest = max((abs(Fraction(weight)) for weight in base), default=Fraction(0)) or Fraction(1)
    floor = Fraction(1, 64) if (len(base) if size is None else size) > 65536 else Fraction(1)
    bits = 62 - at_least(max(floor, largest) * 2**10) - at_least(Fraction(weight_cap))
    return bits, None if at_least(largest) + bits >= 30 else 62 - at_least(Fraction(weight_cap))


def resolution(base: Sequence[float], weight_cap: int) -> Fraction:
    """The finest difference that a sum can hold."""
    high, low = exponents(base, weight_cap)
    return Fraction(2) ** -(high + (low or 0))


def exact_mean(contributions: Sequence[Contributed]) -> list[Fraction]:
    """What a mean is in mathematics."""
    total = sum(weight for _, weight in contributions)
    columns = zip(*(values for values, _ in contributions), strict=True)
    return [
        sum((Fraction(value) * weight for value, (_, weight) in zip(column, contributions, strict=True)), Fraction(0))
        / total
        for column in columns
    ]


def promised_mean(base: Sequence[float], weight_cap: int, contributions: Sequence[Contributed]) -> bytes:
    """What the sums promise, for one tensor, to the bit."""
    return b"".join(struct.pack("<f", quotient) for quotient in promised_quotients(base, weight_cap, contributions))


def promised_quotients(base: Sequence[float], weight_cap: int, contributions: Sequence[Contributed]) -> list[float]:
    """The same before it is rounded to float32."""
    high_exponent, low_exponent = exponents(base, weight_cap)
    total = sum(weight for _, weight in contributions)
    quotients = []
    for column in zip(*(values for values, _ in contributions), strict=True):
        high_sum = low_sum = 0
        for value, (_, weight) in zip(column, contributions, strict=True):
            scaled = Fraction(value) * Fraction(2) ** high_exponent
            high = round(scaled)
            high_sum += high * weight
            if low_exponent is not None:
                low_sum += round((scaled - high) * 2**low_exponent) * weight
        assert abs(high_sum) <= 2**62
        assert abs(low_sum) <= 2**61
        quotient = float(high_sum) / float(total)
        if low_exponent is not None:
            quotient += math.ldexp(float(low_sum) / float(total), -low_exponent)
        quotients.append(math.ldexp(quotient, -high_exponent))
    return quotients
