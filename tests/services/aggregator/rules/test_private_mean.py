"""No contribution moves a sum further than the clipping norm, and what comes out is the mean with noise."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobstore.records import WeightSpec
from learning.privacy import CentralPrivacy
from services.aggregator.rules.private_mean import (
    ClippedSum,
    Summed,
    disturb,
    means,
    plan_of_changes,
    purpose_of,
    rounded,
    unit_bits,
)
from services.aggregator.sum_plan import SumPlan

SPECS = (WeightSpec("a", (3,)), WeightSpec("b", (2, 2)))
SIZE = 7
SECRET = b"s" * 32

weights = st.lists(
    st.floats(-500, 500, width=32, allow_nan=False, allow_infinity=False), min_size=SIZE, max_size=SIZE
).map(lambda values: np.array(values, dtype="<f4").tobytes())
privacies = st.builds(
    CentralPrivacy,
    clipping_norm=st.floats(1e-6, 1e6),
    noise_multiplier=st.floats(0.01, 1e4),
    delta=st.just(1e-5),
    epsilon_budget=st.just(1.0),
)


def privacy_of(norm: float = 1.0, z: float = 1.0) -> CentralPrivacy:
    return CentralPrivacy(clipping_norm=norm, noise_multiplier=z, delta=1e-5, epsilon_budget=100.0)


def octets(*values: float) -> bytes:
    return np.array(values, dtype="<f4").tobytes()


def plan_for(base: bytes, privacy: CentralPrivacy, cap: int = 2**20) -> SumPlan:
    return plan_of_changes(SumPlan.for_base(SPECS, base, cap), privacy)


def summed(
    privacy: CentralPrivacy, base: bytes, contributions: list[tuple[bytes, int]], cap: int = 2**20
) -> ClippedSum:
    total = ClippedSum(plan_for(base, privacy, cap), privacy)
    for values, weight in contributions:
        total.add_change(values, base, weight)
    return total


def units_of(total: ClippedSum) -> list[int]:
    _, limbs = total.to_parts(epoch="", round=0)
    return np.frombuffer(limbs, dtype="<i8").tolist()


@settings(deadline=None)
@given(privacies, weights, st.lists(st.tuples(weights, st.integers(1, 9)), min_size=1, max_size=5), st.data())
def test_one_contribution_moves_the_sum_by_at_most_the_clipping_norm(
    privacy: CentralPrivacy, base: bytes, contributions: list[tuple[bytes, int]], data: st.DataObject
) -> None:
    taken_out = data.draw(st.integers(0, len(contributions) - 1))
    others = [each for index, each in enumerate(contributions) if index != taken_out]
    heaviest = max(weight for _, weight in contributions)
    with_it, without_it = (units_of(summed(privacy, base, each)) for each in (contributions, others))
    square = sum((a - b) ** 2 for a, b in zip(with_it, without_it, strict=True))
    # In exact numbers: one unit is z · C · 2^−k, so C is 2^k / z units.
    norm = Fraction(2 ** unit_bits(plan_for(base, privacy))) / Fraction(privacy.noise_multiplier)
    assert square <= (heaviest * norm) ** 2
    instead = [*others, (data.draw(weights), contributions[taken_out][1])]
    replaced = units_of(summed(privacy, base, instead))
    assert sum((a - b) ** 2 for a, b in zip(with_it, replaced, strict=True)) <= (2 * heaviest * norm) ** 2


@settings(deadline=None)
@given(weights, weights, st.floats(1e-3, 1e3))
def test_a_change_that_is_too_long_keeps_its_direction_and_gets_the_length(
    base: bytes, contribution: bytes, norm: float
) -> None:
    privacy = privacy_of(norm)
    total = summed(privacy, base, [(contribution, 1)])
    change = np.frombuffer(contribution, "<f4").astype(float) - np.frombuffer(base, "<f4").astype(float)
    length = float(np.linalg.norm(change))
    expected = change * min(1.0, norm / length) if length else change
    counted = np.array(units_of(total)) * (norm * 2.0 ** -unit_bits(total.plan))
    np.testing.assert_allclose(counted, expected, rtol=1e-9, atol=norm * 1e-9)


@given(st.lists(st.tuples(weights, st.integers(1, 9)), min_size=1, max_size=6), weights, st.randoms())
@settings(deadline=None)
def test_order_splits_and_corrections_leave_no_trace(
    contributions: list[tuple[bytes, int]], base: bytes, random: Any
) -> None:
    privacy = privacy_of()
    straight = summed(privacy, base, contributions)
    shuffled = random.sample(contributions, len(contributions))
    cut = random.randint(0, len(contributions))
    first, second = summed(privacy, base, shuffled[:cut]), summed(privacy, base, shuffled[cut:])
    extra = contributions[0]
    second.add_change(extra[0], base, extra[1])
    second.subtract_change(extra[0], base, extra[1])
    first.merge(second)
    assert units_of(first) == units_of(straight)
    assert (first.contributions, first.total_weight) == (straight.contributions, straight.total_weight)


def test_the_next_version_is_the_base_and_the_mean_change_and_the_noise() -> None:
    base = octets(1, 2, 3, 4, 5, 6, 7)
    near, far = octets(1.5, 2, 3, 4, 5, 6, 7), octets(1, 2, 3, 4, 5, 6, 17)
    privacy = privacy_of(norm=2.0, z=1e-2)
    total = summed(privacy, base, [(near, 1), (far, 3)])
    assert rounded(total, base, privacy) == octets(1 + 0.5 / 4, 2, 3, 4, 5, 6, 7 + 3 * 2.0 / 4)
    noisy = summed(privacy, base, [(near, 1), (far, 3)])
    disturb(noisy, SECRET, b"purpose", heaviest=3)
    before = np.concatenate([block.copy() for _, _, block in means(total, base, privacy)])
    after = np.concatenate([block.copy() for _, _, block in means(noisy, base, privacy)])
    deviation = 0.01 * 2.0 * 3 / 4  # z · C · the heaviest weight, divided by the total weight
    assert all(0 < abs(step) < 5 * deviation for step in after - before)


def test_the_noise_has_the_deviation_that_is_promised() -> None:
    size, privacy = 200_000, privacy_of(norm=0.5, z=3.0)
    base = bytes(4 * size)
    plan = plan_of_changes(SumPlan.for_base((WeightSpec("a", (size,)),), base, 2**20), privacy)
    total = ClippedSum(plan, privacy)
    for weight in (1, 2, 1):
        total.add_change(base, base, weight)
    disturb(total, SECRET, b"purpose", heaviest=2)
    noise = np.frombuffer(rounded(total, base, privacy), "<f4").astype(float) / (3.0 * 0.5 * 2 / 4)
    assert abs(noise.mean()) < 5 / math.sqrt(size)
    assert abs(noise.std() - 1) < 5 / math.sqrt(2 * size)


def test_noise_hangs_on_what_is_summed_and_not_on_its_order() -> None:
    base_digest, privacy = "ab" * 32, privacy_of()
    plan = plan_for(octets(*range(SIZE)), privacy)
    one, two = Summed("01" * 32, 3, 2), Summed("02" * 32, 2, 1)

    def named(*of: Summed, task: str = "t", round: int = 3, base: str = base_digest, **more: Any) -> bytes:
        return purpose_of(task, round, base, privacy=more.get("privacy", privacy), plan=plan, summed=of)

    assert named(one, two) == named(two, one)
    others = [
        named(one, two, task="u"),
        named(one, two, round=4),
        named(one, two, base="cd" * 32),
        named(one, two, privacy=privacy_of(norm=2.0)),
        named(one, two, privacy=privacy_of(z=2.0)),
        named(one),
        named(one, two, two),
        named(one, Summed("02" * 32, 3, 1)),
        named(one, Summed("02" * 32, 2, 2)),
    ]
    assert len({named(one, two), *others}) == 10


@pytest.mark.parametrize("cap", [2, 2**20, 2**40])
@pytest.mark.parametrize("z", [0.01, 1.0, 1e4])
def test_nothing_overflows_at_the_cap(cap: int, z: float) -> None:
    privacy, base = privacy_of(norm=1.0, z=z), octets(*[0.0] * SIZE)
    plan = plan_for(base, privacy, cap)
    total = ClippedSum(plan, privacy)
    total.add_change(octets(1000, 0, 0, 0, 0, 0, 0), base, cap)
    largest = max(map(abs, units_of(total)))
    assert largest <= cap * 2 ** unit_bits(plan) / z
    assert largest + 64 * cap * 2 ** unit_bits(plan) < 2**63
    disturb(total, SECRET, b"purpose", heaviest=cap)
    change = np.frombuffer(rounded(total, base, privacy), "<f4")
    assert abs(change[0] - 1) < 6 * z
    assert all(abs(change[1:]) < 6 * z)
