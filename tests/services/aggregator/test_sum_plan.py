from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.records import WeightSpec
from learning.refusals import InvalidWeights, WeightsNotFinite, WeightsOutOfBound
from services.aggregator.sum_plan import Scale, SumPlan, power_of_two_at_least
from tests.services.aggregator import fractions_mean

CAP = 2**20


def floats(*values: float) -> bytes:
    return np.array(values, dtype="<f4").tobytes()


def plan_of(*tensors: tuple[float, ...], weight_cap: int = CAP) -> SumPlan:
    specs = [WeightSpec(name=f"tensor{i}", shape=(len(tensor),)) for i, tensor in enumerate(tensors)]
    return SumPlan.for_base(specs, floats(*(weight for tensor in tensors for weight in tensor)), weight_cap)


def next_after(value: float) -> float:
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


@pytest.mark.parametrize(
    ("value", "exponent"), [(1.0, 0), (1.0000001, 1), (2.0, 1), (0.5, -1), (3.0, 2), (2.0**-149, -149)]
)
def test_power_of_two_is_the_smallest_that_is_large_enough(value: float, exponent: int) -> None:
    assert power_of_two_at_least(value) == exponent


@pytest.mark.parametrize(
    ("largest", "weight_cap", "exponent", "low_exponent"),
    [
        (1.0, CAP, 32, None),
        (0.25, CAP, 32, None),  # 30 bits below it
        (0.125, CAP, 32, 42),  # 29 bits below it
        (0.0, CAP, 32, None),  # counts as 1
        (4.0, CAP, 30, None),
        (5.0, CAP, 29, None),
        (1.0, 2**20 + 1, 31, None),
        (1.0, 2**40, 12, 22),
        (1.0, 1, 52, None),
        (2.0**-149, CAP, 32, 42),
        (float(np.finfo(np.float32).max), CAP, -96, None),
        (float(np.finfo(np.float32).max), 2**40, -116, 22),
    ],
)
def test_scale_follows_from_the_largest_weight_and_the_cap(
    largest: float, weight_cap: int, exponent: int, low_exponent: int | None
) -> None:
    scale = Scale.for_base(largest, weight_cap, size=65536)
    assert (scale.exponent, scale.low_exponent) == (exponent, low_exponent)


@pytest.mark.parametrize(
    ("largest", "exponent", "low_exponent", "bound"),
    [
        (1.0, 32, None, 1024.0),
        (0.125, 35, None, 128.0),
        (2.0**-6, 38, None, 16.0),
        (2.0**-8, 38, None, 16.0),  # 30 bits below it
        (2.0**-9, 38, 42, 16.0),  # 29 bits below it
        (0.0, 32, None, 1024.0),  # counts as 1
        (5.0, 29, None, 8192.0),
    ],
)
def test_large_tensors_need_a_second_limb_later(
    largest: float, exponent: int, low_exponent: int | None, bound: float
) -> None:
    scale = Scale.for_base(largest, CAP, size=65537)
    assert (scale.exponent, scale.low_exponent, scale.bound) == (exponent, low_exponent, bound)


SIZES = st.sampled_from([1, 65536, 65537, 10**9])


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=5),
    st.integers(min_value=1, max_value=2**40),
    SIZES,
)
def test_scale_is_what_the_rule_says(base: list[float], weight_cap: int, size: int) -> None:
    scale = Scale.for_base(max((abs(weight) for weight in base), default=0.0), weight_cap, size=size)
    assert (scale.exponent, scale.low_exponent) == fractions_mean.exponents(base, weight_cap, size=size)


@given(st.floats(min_value=0, width=32, allow_infinity=False), st.integers(min_value=1, max_value=2**40), SIZES)
def test_no_sum_of_the_largest_weights_overflows(largest: float, weight_cap: int, size: int) -> None:
    scale = Scale.for_base(largest, weight_cap, size=size)
    high = round(Fraction(scale.bound) * Fraction(2) ** scale.exponent)
    assert high * weight_cap <= 2**62
    if scale.low_exponent is not None:
        assert Fraction(1, 2) * 2**scale.low_exponent * weight_cap <= 2**61


def test_neighbours_that_are_counted_alike_are_one_run() -> None:
    plan = plan_of((1.0, 0.5), (0.75,), (0.01, 0.02), (0.01,), (0.0,))
    runs = [(run.start, run.stop, run.low_start, run.scale.low_exponent) for run in plan.runs]
    assert runs == [(0, 3, 0, None), (3, 6, 0, 42), (6, 7, 3, None)]
    assert (plan.size, plan.low_size) == (7, 3)


def test_empty_tensors_and_empty_models_are_harmless() -> None:
    assert plan_of((), (1.0,), ()).runs == plan_of((1.0,)).runs
    plan_of(()).check(b"")


def test_digest_tells_plans_apart() -> None:
    plans = [plan_of((1.0, 1.0)), plan_of((1.0, 3.0)), plan_of((1.0,)), plan_of((1.0,), (0.1,)), plan_of((1.0, 1.0))]
    plans.append(plan_of((1.0, 1.0), weight_cap=7))
    assert len({plan.digest for plan in plans}) == 5
    assert plans[0].digest == plans[4].digest


@pytest.mark.parametrize("sign", [1, -1])
def test_a_weight_at_the_bound_fits_and_the_next_one_does_not(sign: int) -> None:
    plan = plan_of((1.0,), (3.0, 0.0))
    plan.check(floats(sign * 1024.0, sign * 4096.0, 0.0))
    with pytest.raises(WeightsOutOfBound) as refusal:
        plan.check(floats(sign * 1024.0, 0.0, sign * next_after(4096.0)))
    assert refusal.value.variables == {"tensor": "tensor1", "bound": "4096"}
    with pytest.raises(WeightsOutOfBound, match="tensor0"):
        plan.check(floats(sign * next_after(1024.0), 0.0, 0.0))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("largest", [1.0, 3e38])
def test_weights_that_are_not_finite_are_refused_by_the_tensor_they_are_in(value: float, largest: float) -> None:
    plan = plan_of((largest, 1.0), (largest,))
    with pytest.raises(WeightsNotFinite) as refusal:
        plan.check(floats(0.0, 0.0, value))
    assert refusal.value.variables == {"tensor": "tensor1"}


def test_every_finite_weight_fits_a_huge_base() -> None:
    plan_of((3e38,)).check(floats(float(np.finfo(np.float32).max)))


@pytest.mark.parametrize("weights", [b"", floats(1.0), floats(1.0, 2.0, 3.0), b"12345"])
def test_other_sizes_are_refused(weights: bytes) -> None:
    with pytest.raises(InvalidWeights):
        plan_of((1.0, 1.0)).check(weights)


def test_a_large_tensor_of_small_weights_has_its_bound_where_they_can_be_counted_finely() -> None:
    size = 65537
    plan = SumPlan.for_base([WeightSpec("large", (size,))], np.full(size, 0.01, dtype="<f4").tobytes(), CAP)
    weights = np.zeros(size, dtype="<f4")
    weights[-1] = -16.0
    plan.check(weights.tobytes())
    weights[-1] = next_after(16.0)
    with pytest.raises(WeightsOutOfBound) as refusal:
        plan.check(weights.tobytes())
    assert refusal.value.variables == {"tensor": "large", "bound": "16"}
    assert plan.low_size == 0


def test_a_bad_weight_is_found_at_the_end_of_many_blocks() -> None:
    size = 3 * 65536 + 5
    plan = SumPlan.for_base([WeightSpec("large", (size,))], bytes(4 * size), CAP)
    weights = np.zeros(size, dtype="<f4")
    plan.check(weights.tobytes())
    weights[-1] = math.nan
    with pytest.raises(WeightsNotFinite):
        plan.check(weights.tobytes())


def test_a_base_that_is_not_finite_or_of_another_size_has_no_plan() -> None:
    with pytest.raises(WeightsNotFinite):
        plan_of((math.nan,))
    with pytest.raises(InvalidWeights):
        SumPlan.for_base([WeightSpec("kernel", (2, 3))], floats(1.0), CAP)
