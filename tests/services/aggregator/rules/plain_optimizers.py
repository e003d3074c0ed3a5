"""The server optimizers a second time, without NumPy: one weight after the other, from the words of the paper."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

NUMBERS: Mapping[str, Mapping[str, float]] = {
    "fedavgm": {"eta": 1.0, "momentum": 0.9},
    "fedadam": {"eta": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3},
    "fedyogi": {"eta": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3},
    "fedadagrad": {"eta": 0.1, "beta1": 0.0, "tau": 1e-3},
}


@dataclass
class PlainOptimizer:
    """One weight on its way through the rounds."""

    rule: str
    m: float = 0.0
    v: float = field(init=False)

    def __post_init__(self) -> None:
        self.v = NUMBERS[self.rule].get("tau", 0.0) * NUMBERS[self.rule].get("tau", 0.0)

    def next(self, base: float, mean: float) -> float:
        numbers, delta = NUMBERS[self.rule], mean - base
        if self.rule == "fedavgm":
            self.m = numbers["momentum"] * self.m + delta
            return base + numbers["eta"] * self.m
        self.m = numbers["beta1"] * self.m + (1 - numbers["beta1"]) * delta
        square = delta * delta
        if self.rule == "fedadagrad":
            self.v = self.v + square
        elif self.rule == "fedadam":
            self.v = numbers["beta2"] * self.v + (1 - numbers["beta2"]) * square
        else:
            sign = (self.v > square) - (self.v < square)
            self.v = self.v - (1 - numbers["beta2"]) * square * sign
        return base + numbers["eta"] * self.m / (math.sqrt(self.v) + numbers["tau"])


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


class PlainModel:
    """A model of some weights, each with an optimizer of its own."""

    def __init__(self, rule: str, weights: Sequence[float]) -> None:
        self.weights = list(weights)
        self._optimizers = [PlainOptimizer(rule) for _ in weights]

    def step(self, mean: Sequence[float]) -> bytes:
        """The next version."""
        self.weights = [
            float32(optimizer.next(weight, towards))
            for optimizer, weight, towards in zip(self._optimizers, self.weights, mean, strict=True)
        ]
        return struct.pack(f"<{len(self.weights)}f", *self.weights)

    def state(self) -> bytes:
        rows = [[optimizer.m for optimizer in self._optimizers]]
        if self._optimizers[0].rule != "fedavgm":
            rows.append([optimizer.v for optimizer in self._optimizers])
        return b"".join(struct.pack(f"<{len(row)}d", *row) for row in rows)
