"""The robust rules a second time, without NumPy: one weight after the other, from the words of the rules."""

from __future__ import annotations

import math
import statistics
import struct
from collections.abc import Sequence

Contributed = tuple[Sequence[float], int]
"""The weights of a model (float32 values) and the contribution's weight."""


def median(contributions: Sequence[Contributed]) -> bytes:
    columns = zip(*(values for values, _ in contributions), strict=True)
    return _packed([statistics.median(column) for column in columns])


def trimmed_mean(contributions: Sequence[Contributed], *, cut: int) -> bytes:
    columns = zip(*([(value, weight) for value in values] for values, weight in contributions), strict=True)
    means = []
    for column in columns:
        left = sorted(column, key=lambda pair: pair[0])[cut : len(column) - cut]
        total = 0.0
        for value, weight in left:
            total += value * weight
        means.append(total / sum(weight for _, weight in left))
    return _packed(means)


def clipped(
    base: Sequence[float], contributions: Sequence[Contributed], *, radius: float | None, rank: int, iterations: int
) -> list[float]:
    """In the order of `contributions`; without a radius, the length that has this rank (from 1) is the radius."""
    around, total_weight = list(base), sum(weight for _, weight in contributions)
    for _ in range(iterations):
        differences = [[x - v for x, v in zip(values, around, strict=True)] for values, _ in contributions]
        lengths = [math.sqrt(math.fsum(each * each for each in difference)) for difference in differences]
        if radius is None:
            radius = sorted(lengths)[rank - 1]
        shares = [
            weight / total_weight * (radius / length if length > radius else 1.0)
            for (_, weight), length in zip(contributions, lengths, strict=True)
        ]
        around = [
            v + sum(share * difference[at] for share, difference in zip(shares, differences, strict=True))
            for at, v in enumerate(around)
        ]
    return around


def _packed(values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)
