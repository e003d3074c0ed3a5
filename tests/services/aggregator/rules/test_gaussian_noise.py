"""Noise is Gaussian, whole, and the same for the same secret and purpose.

Secrets and purposes are fixed, so what is drawn is, too: the statistics below hold or do not, and never sometimes.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from services.aggregator.rules.gaussian_noise import MAX_DEVIATION, GaussianNoise

SECRET = bytes(range(32))
FIRST = [5478782, -5146889, -72534, -1610173]
DIGEST = "256403938e1af69fcf8e76b225c10702d7c7d5ef071c29103bd7fa16c48b39ce"


def drawn(count: int, *, deviation: int, purpose: bytes = b"round 7") -> list[int]:
    return GaussianNoise(SECRET, purpose, deviation=deviation).draw(count).tolist()


def test_the_same_purpose_has_the_same_noise_and_another_one_another() -> None:
    noise = drawn(1000, deviation=2**30)
    assert noise == drawn(1000, deviation=2**30)
    other = drawn(1000, deviation=2**30, purpose=b"round 8")
    other_secret = GaussianNoise(bytes(32), b"round 7", deviation=2**30).draw(1000).tolist()
    assert set(noise).isdisjoint(other)
    assert set(noise).isdisjoint(other_secret)
    # As unlike each other as noise is: a correlation of three standard errors would be 0.095.
    assert abs(np.corrcoef(noise, other)[0, 1]) < 0.095
    assert abs(np.corrcoef(noise, other_secret)[0, 1]) < 0.095


def test_these_numbers_are_drawn_on_every_machine() -> None:
    # What versions are made of: whoever changes this changes what a version is computed to again.
    noise = GaussianNoise(SECRET, b"round 7", deviation=3 << 20).draw(100_000)
    assert noise[:4].tolist() == FIRST
    assert hashlib.sha256(noise.tobytes()).hexdigest() == DIGEST


@pytest.mark.parametrize("deviation", [1, 2, 3, 10])
def test_every_value_has_its_probability(deviation: int) -> None:
    count = 200_000
    values, counts = np.unique(drawn(count, deviation=deviation), return_counts=True)
    seen = dict(zip(values.tolist(), counts.tolist(), strict=True))
    shape = {i: math.exp(-(i**2) / (2 * deviation**2)) for i in range(-60 * deviation, 60 * deviation + 1)}
    expected = {i: count * each / math.fsum(shape.values()) for i, each in shape.items()}
    often = [i for i in expected if expected[i] >= 10]
    chi_square = math.fsum((seen.get(i, 0) - expected[i]) ** 2 / expected[i] for i in often)
    # With f degrees of freedom it is f ± √(2f); five of those are exceeded once in a million times.
    assert chi_square < len(often) + 5 * math.sqrt(2 * len(often))
    assert sum(seen.get(i, 0) for i in expected if expected[i] < 10) < 200


@pytest.mark.parametrize("deviation", [2**20, 3 << 35, MAX_DEVIATION])
def test_large_deviations_have_the_moments_of_a_gaussian(deviation: int) -> None:
    count = 400_000
    noise = np.array(drawn(count, deviation=deviation)) / deviation
    error = 5 / math.sqrt(count)
    assert abs(noise.mean()) < error
    assert abs(noise.var() - 1) < error * math.sqrt(2)
    assert abs((noise**3).mean()) < error * math.sqrt(15)
    assert abs((noise**4).mean() - 3) < error * math.sqrt(96)
    within = [float((abs(noise) <= bound).mean()) for bound in (0.5, 1, 2, 3)]
    for share, bound in zip(within, (0.5, 1, 2, 3), strict=True):
        assert abs(share - math.erf(bound / math.sqrt(2))) < error / 2


def test_neighbours_in_the_noise_do_not_know_of_each_other() -> None:
    noise = np.array(drawn(400_000, deviation=2**30)) / 2**30
    for lag in (1, 2, 3, 7):
        assert abs(np.corrcoef(noise[:-lag], noise[lag:])[0, 1]) < 5 / math.sqrt(noise.size)
    assert abs(float((noise < 0).mean()) - 0.5) < 5 * 0.5 / math.sqrt(noise.size)
    # Nor do the lowest bits: every residue is alike.
    odd = np.array(drawn(400_000, deviation=2**30)) % 2
    assert abs(float(odd.mean()) - 0.5) < 5 * 0.5 / math.sqrt(odd.size)
