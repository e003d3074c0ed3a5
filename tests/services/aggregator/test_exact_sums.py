from __future__ import annotations

import itertools
import struct
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobstore.records import WeightSpec
from services.aggregator.exact_sums import NotASum, PartialSum, SumHeader
from services.aggregator.sum_plan import SumPlan
from tests.services.aggregator import fractions_mean

CAP = 2**20
FLOAT32_MAX = float(np.finfo(np.float32).max)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def floats(*values: float) -> bytes:
    return np.array(values, dtype="<f4").tobytes()


def plan_of(*tensors: list[float], weight_cap: int = CAP) -> SumPlan:
    specs = [WeightSpec(name=f"tensor{i}", shape=(len(tensor),)) for i, tensor in enumerate(tensors)]
    return SumPlan.for_base(specs, floats(*itertools.chain(*tensors)), weight_cap)


def written(partial: PartialSum) -> bytes:
    return b"".join(partial.to_parts(epoch="an-epoch", round=3))


def limbs(partial: PartialSum) -> bytes:
    return bytes(partial.to_parts(epoch="an-epoch", round=3)[1])


@st.composite
def one_tensor(draw: st.DrawFn) -> tuple[list[float], int, list[tuple[list[float], int]]]:
    """A base, a cap, and contributions that fit both, among them the largest that do."""
    size = draw(st.integers(min_value=1, max_value=4))
    largest = draw(
        st.one_of(finite, st.sampled_from([0.0, 0.125, 0.25, 1.0, 2.0**-149, FLOAT32_MAX]), st.floats(-2, 2, width=32))
    )
    base = [largest, *draw(st.lists(st.just(0.0), min_size=size - 1, max_size=size - 1))]
    weight_cap = draw(st.sampled_from([2**40, 2**20, 1000, 7]))
    bound = plan_of(base, weight_cap=weight_cap).tensors[0].scale.bound
    values = st.one_of(
        st.floats(min_value=-bound, max_value=bound, width=32),
        st.sampled_from([bound, -bound, 0.0, -0.0, 2.0**-149, -(2.0**-149), min(1.0, bound)]),
    )
    contributions = []
    left = weight_cap
    for _ in range(draw(st.integers(min_value=1, max_value=6))):
        if left == 0:
            break
        weight = draw(st.one_of(st.integers(min_value=1, max_value=left), st.just(left), st.just(1)))
        left -= weight
        contributions.append((draw(st.lists(values, min_size=size, max_size=size)), weight))
    return base, weight_cap, contributions


@settings(max_examples=300, deadline=None)
@given(one_tensor())
def test_mean_is_the_promised_one_to_the_bit(drawn: tuple[list[float], int, list[tuple[list[float], int]]]) -> None:
    base, weight_cap, contributions = drawn
    plan = plan_of(base, weight_cap=weight_cap)
    partial = PartialSum(plan)
    for values, weight in contributions:
        plan.check(floats(*values))
        partial.add(floats(*values), weight)
    assert bytes(partial.mean()) == fractions_mean.promised_mean(base, weight_cap, contributions)


@settings(max_examples=300, deadline=None)
@given(one_tensor())
def test_mean_is_as_near_to_the_rational_one_as_the_resolution_says(
    drawn: tuple[list[float], int, list[tuple[list[float], int]]],
) -> None:
    base, weight_cap, contributions = drawn
    partial = PartialSum(plan_of(base, weight_cap=weight_cap))
    for values, weight in contributions:
        partial.add(floats(*values), weight)
    finest = fractions_mean.resolution(base, weight_cap)
    high_unit = Fraction(2) ** -fractions_mean.exponents(base, weight_cap)[0]
    for got, exact in zip(np.frombuffer(partial.mean(), "<f4"), fractions_mean.exact_mean(contributions), strict=True):
        counting = finest / 2
        dividing = (abs(exact) + high_unit) * Fraction(2) ** -50
        rounding = abs(exact) * Fraction(2) ** -24 + Fraction(2) ** -150
        assert abs(Fraction(float(got)) - exact) <= counting + dividing + rounding


def random_contributions(seed: int, size: int, count: int) -> list[tuple[bytes, int]]:
    random = np.random.default_rng(seed)
    return [
        ((random.standard_normal(size) * 10.0 ** random.integers(-6, 2, size)).astype("<f4").tobytes(), int(weight))
        for weight in random.integers(1, 1000, count)
    ]


def mixed_plan() -> SumPlan:
    """Tensors with one limb and with two, in turn, and one that is longer than a block."""
    return plan_of([1.0] * 5, [0.01] * 7, [3.0] * 70_000, [0.001] * 3, [0.0] * 2)


@settings(max_examples=20, deadline=None)
@given(st.integers(min_value=0), st.sampled_from([1, 2, 5, 16]), st.randoms(use_true_random=False))
def test_order_and_split_leave_no_trace(seed: int, replicas: int, random: object) -> None:
    plan = plan_of([1.0] * 5, [0.01] * 7, [3.0] * 9)
    contributions = random_contributions(seed, plan.size, 20)
    whole = PartialSum(plan)
    for contribution in contributions:
        whole.add(*contribution)

    sums = [PartialSum(plan) for _ in range(replicas)]
    random.shuffle(contributions)  # type: ignore[attr-defined]
    for contribution in contributions:
        random.choice(sums).add(*contribution)  # type: ignore[attr-defined]
    random.shuffle(sums)  # type: ignore[attr-defined]
    merged = PartialSum(plan)
    for partial in sums:
        merged.merge(partial)

    assert written(merged) == written(whole)
    assert bytes(merged.mean()) == bytes(whole.mean())


@pytest.mark.parametrize("count", [1, 2, 3, 4, 1000])
def test_pieces_added_at_the_same_time_come_to_the_same_sum(count: int) -> None:
    # Runs with one limb and with two, tensors longer than a block, weights that are powers of two and others.
    random = np.random.default_rng(count)
    sizes, scales = (3, 2 * 65536 + 7, 70_000, 1, 65_536), (1.0, 0.001, 2.0, 0.001, 0.01)
    specs = [WeightSpec(f"tensor{index}", (size,)) for index, size in enumerate(sizes)]

    def weights() -> bytes:
        drawn = [random.normal(0, scale, size) for size, scale in zip(sizes, scales, strict=True)]
        return np.concatenate(drawn).astype("<f4").tobytes()

    plan = SumPlan.for_base(specs, weights(), CAP)
    assert 0 < plan.low_size < plan.size
    contributions = [(weights(), weight) for weight in (1, 3, 1024)]
    one_by_one, at_once = PartialSum(plan), PartialSum(plan)
    for contribution, weight in contributions:
        one_by_one.add(contribution, weight)
    pieces = at_once.begin_adding(contributions).pieces(count)
    assert len(pieces) == min(count, 8)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda piece: piece(), reversed(pieces)))
    assert written(at_once) == written(one_by_one)
    dividing = at_once.begin_dividing()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda piece: piece(), reversed(dividing.pieces(count))))
    assert bytes(dividing.mean) == bytes(one_by_one.mean())
    for piece in at_once.begin_subtracting(contributions[1:]).pieces(count):
        piece()
    for contribution, weight in contributions[1:]:
        one_by_one.subtract(contribution, weight)
    assert written(at_once) == written(one_by_one)


@pytest.mark.parametrize("weight", [1, 2, 3, 64, 100])
def test_a_weight_counts_as_often_as_it_says_and_is_taken_out_again(weight: int) -> None:
    plan = mixed_plan()
    (before, weight_before), (other, _) = random_contributions(seed=6, size=plan.size, count=2)
    one_by_one, at_once = PartialSum(plan), PartialSum(plan)
    for partial in (one_by_one, at_once):
        partial.add(before, weight_before)
    nothing_more = written(at_once)
    for _ in range(weight):
        one_by_one.add(other, 1)
    at_once.add(other, weight)
    assert limbs(at_once) == limbs(one_by_one)
    at_once.subtract(other, weight)
    assert written(at_once) == nothing_more


def test_subtracting_undoes_adding_exactly() -> None:
    plan = mixed_plan()
    first, second, third = random_contributions(7, plan.size, 3)
    partial, undone = PartialSum(plan), PartialSum(plan)
    partial.add(*second)
    for contribution in (first, second, third):
        undone.add(*contribution)
    undone.subtract(*first)
    undone.subtract(*third)
    assert written(undone) == written(partial)
    undone.subtract(*second)
    assert written(undone) == written(PartialSum(plan))


def test_models_longer_than_a_block_are_added_whole() -> None:
    plan = mixed_plan()
    contributions = random_contributions(3, plan.size, 4)
    partial = PartialSum(plan)
    for contribution in contributions:
        partial.add(*contribution)
    promised = b""
    start = 0
    for tensor, largest in zip(plan.tensors, (1.0, 0.01, 3.0, 0.001, 0.0), strict=True):
        of_tensor = [
            (np.frombuffer(weights, "<f4")[start : start + tensor.size].tolist(), weight)
            for weights, weight in contributions
        ]
        base = [float(np.float32(largest))]
        promised += fractions_mean.promised_mean(base, CAP, of_tensor)
        start += tensor.size
    assert bytes(partial.mean()) == promised


@pytest.mark.parametrize("value", [FLOAT32_MAX, -FLOAT32_MAX])
@pytest.mark.parametrize("weight_cap", [1, CAP, 2**40])
def test_the_largest_floats_at_full_weight_do_not_overflow(value: float, weight_cap: int) -> None:
    plan = plan_of([FLOAT32_MAX], weight_cap=weight_cap)
    partial = PartialSum(plan)
    partial.add(floats(value), weight_cap)
    assert bytes(partial.mean()) == floats(value)


def test_opposite_extremes_cancel() -> None:
    partial = PartialSum(plan_of([1.0]))
    partial.add(floats(1024.0), CAP // 2)
    partial.add(floats(-1024.0), CAP // 2)
    assert bytes(partial.mean()) == floats(0.0)


def test_minus_zero_becomes_zero_and_subnormals_of_a_tiny_tensor_are_below_the_resolution() -> None:
    partial = PartialSum(plan_of([2.0**-149, 0.0]))
    partial.add(floats(-0.0, 2.0**-149), 1)
    assert bytes(partial.mean()) == floats(0.0, 0.0)


def test_a_second_limb_keeps_small_weights_of_a_small_tensor() -> None:
    weight = float(np.float32(1.2345e-9))
    partial = PartialSum(plan_of([0.01]))
    partial.add(floats(weight), 3)
    (got,) = np.frombuffer(partial.mean(), "<f4")
    assert abs(float(got) - weight) < 2.0**-74


def test_nothing_is_added_beyond_the_cap() -> None:
    partial = PartialSum(plan_of([1.0], weight_cap=5))
    partial.add(floats(1.0), 3)
    with pytest.raises(AssertionError):
        partial.add(floats(1.0), 3)
    assert (partial.contributions, partial.total_weight) == (1, 3)


def test_a_written_sum_comes_back_with_what_it_says_of_itself() -> None:
    plan = mixed_plan()
    partial = PartialSum(plan)
    for contribution in random_contributions(1, plan.size, 3):
        partial.add(*contribution)
    header, read = PartialSum.from_bytes(plan, written(partial))
    assert header == SumHeader(
        plan_digest=plan.digest,
        epoch="an-epoch",
        round=3,
        contributions=3,
        total_weight=partial.total_weight,
        limbs=plan.size + plan.low_size,
    )
    assert written(read) == written(partial)


def test_a_written_sum_is_laid_out_as_documented() -> None:
    plan = plan_of([1.0, 1.0])
    partial = PartialSum(plan)
    partial.add(floats(1.0, -2.0), 3)
    assert written(partial) == (
        b"DISCOSUM"
        + struct.pack("<II", 1, 8)
        + plan.digest
        + struct.pack("<QQQQ", 3, 1, 3, 2)
        + b"an-epoch"
        + struct.pack("<qq", 3 * 2**32, -6 * 2**32)
    )


@pytest.mark.parametrize("chunk_size", [8, 64, 4096])
def test_a_written_sum_can_be_added_in_pieces(chunk_size: int) -> None:
    plan = plan_of([1.0] * 50, [0.01] * 30)
    first, second = random_contributions(2, plan.size, 2)
    left, right, whole = PartialSum(plan), PartialSum(plan), PartialSum(plan)
    left.add(*first)
    right.add(*second)
    whole.add(*first)
    whole.add(*second)
    octets = written(right)
    header = SumHeader.decode(octets)
    left.merge_header(header)
    for start in range(header.size, len(octets), chunk_size):
        left.merge_limbs((start - header.size) // 8, octets[start : start + chunk_size])
    assert written(left) == written(whole)


def test_what_is_no_sum_of_the_plan_is_refused() -> None:
    plan = plan_of([1.0, 1.0])
    octets = written(PartialSum(plan))
    others = [b"", octets[:-1], octets[:-8], octets + bytes(8), b"X" + octets[1:], octets[:90]]
    others.append(octets[:8] + struct.pack("<I", 2) + octets[12:])
    others.append(octets[:12] + struct.pack("<I", 2**31) + octets[16:])
    others.append(octets[:80] + b"\xff" * 8 + octets[88:])
    others.append(written(PartialSum(plan_of([1.0, 3.0]))))
    others.append(octets[:64] + struct.pack("<Q", CAP + 1) + octets[72:])
    for other in others:
        with pytest.raises(NotASum):
            PartialSum.from_bytes(plan, other)
