"""The weights that the rule of a task promises, computed a second time, version by version."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from learning.aggregation import Aggregation, AggregationRule
from tests.e2e.exact_mean import exact_mean
from tests.services.aggregator import fractions_mean
from tests.services.aggregator.rules import plain_robust
from tests.services.aggregator.rules.plain_optimizers import NUMBERS, PlainModel
from tests.simulation.small_task import BASE, SIZES

Listed = Sequence[tuple[bytes, int]]
"""Contributions and their weights, in the order of their positions."""


class PromisedWeights:
    """Those of one task, from version 1 on."""

    def __init__(self, aggregation: Aggregation | None) -> None:
        self._rule = aggregation.rule if aggregation else AggregationRule.MEAN
        first = _floats(struct.pack(f"<{len(BASE)}f", *BASE))
        self._model = PlainModel(self._rule.value, first) if self._rule.value in NUMBERS else None

    def are(self, weights: bytes, *, base: bytes, listed: Listed, weight_cap: int) -> bool:
        """Whether these are the next version's."""
        if self._rule is AggregationRule.CENTERED_CLIPPING:
            expected = _clipped(base, listed)
            return all(
                math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-6)
                for one, other in zip(_floats(weights), expected, strict=True)
            )
        return weights == self._next(base, listed, weight_cap)

    def _next(self, base: bytes, listed: Listed, weight_cap: int) -> bytes:
        if self._model is not None:
            return self._model.step(_quotients(base, listed, weight_cap))
        unpacked = [(_floats(weights), weight) for weights, weight in listed]
        if self._rule is AggregationRule.MEDIAN:
            return plain_robust.median(unpacked)
        if self._rule is AggregationRule.TRIMMED_MEAN:
            cut = min(math.ceil(len(listed) / 10), (len(listed) - 1) // 2)
            return plain_robust.trimmed_mean(unpacked, cut=cut)
        return exact_mean(base, SIZES, listed, weight_cap)


def _quotients(base: bytes, listed: Listed, weight_cap: int) -> list[float]:
    found: list[float] = []
    for size in SIZES:
        part = slice(len(found), len(found) + size)
        of_tensor = [(_floats(weights)[part], weight) for weights, weight in listed]
        found += fractions_mean.promised_quotients(_floats(base)[part], weight_cap, of_tensor)
    return found


def _clipped(base: bytes, listed: Listed) -> list[float]:
    unpacked = [(_floats(weights), weight) for weights, weight in listed]
    rank = math.ceil(len(listed) / 2)
    return plain_robust.clipped(_floats(base), unpacked, radius=None, rank=rank, iterations=1)


def _floats(weights: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(weights) // 4}f", weights))
