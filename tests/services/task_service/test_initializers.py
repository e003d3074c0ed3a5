from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from learning.refusals import InvalidModel
from services.task_service.initializers import (
    GLOROT_NORMAL,
    GLOROT_UNIFORM,
    LECUN_NORMAL,
    ONES,
    ZEROS,
    Constant,
    ForgetGateOpen,
    Identity,
    Initializer,
    Normal,
    Orthogonal,
    Uniform,
    VarianceScaling,
    blocks_of,
    weights_of,
)

CUT_STDDEV = 0.8796256610342398
"""Of a standard normal value that is cut at two standard deviations."""


def _digest(initializer: Initializer, shape: tuple[int, ...]) -> str:
    return hashlib.sha256(weights_of(initializer, shape, seed="task\nlayer/kernel").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("initializer", "shape", "digest"),
    [
        (Uniform(-0.05, 0.05), (7, 11), "3b7a1d3aec7ee1f2"),
        (Normal(0.5, 2.0, truncated=False), (300, 7), "9ffad4c988fab698"),
        (Normal(0.0, 0.05, truncated=True), (70_000, 2), "4754bd0d08d6598c"),
        (GLOROT_NORMAL, (3, 3, 8, 16), "96d0719347e17798"),
        (GLOROT_UNIFORM, (64, 32), "626c79ddfa3099bf"),
        (LECUN_NORMAL, (5, 124), "aa46656f0ea84d78"),
        (VarianceScaling(2.0, "fan_out", "uniform"), (5, 4, 3), "dc59da1d540ed2c7"),
        (Orthogonal(1.0), (24, 96), "99e393547c19b5a4"),
        (Orthogonal(0.5), (3, 3, 4, 8), "c7ccb78b78a0a482"),
    ],
)
def test_the_bytes_are_the_same_on_every_machine(initializer: Initializer, shape: tuple[int, ...], digest: str) -> None:
    assert _digest(initializer, shape) == digest


def test_another_seed_gives_other_bytes() -> None:
    first = weights_of(GLOROT_NORMAL, (4, 4), seed="task\na/kernel")
    assert not np.array_equal(first, weights_of(GLOROT_NORMAL, (4, 4), seed="task\nb/kernel"))
    assert not np.array_equal(first, weights_of(GLOROT_NORMAL, (4, 4), seed="other\na/kernel"))


def test_weights_are_little_endian_float32_of_the_shape_that_was_asked_for() -> None:
    weights = weights_of(Constant(0.1), (2, 3), seed="")
    assert weights.shape == (2, 3)
    assert weights.tobytes() == bytes.fromhex("cdcccc3d") * 6


def test_zeros_ones_and_identity() -> None:
    assert weights_of(ZEROS, (3,), seed="").tolist() == [0, 0, 0]
    assert weights_of(ONES, (), seed="").tolist() == 1
    assert weights_of(Identity(2.0), (2, 2), seed="").tolist() == [[2, 0], [0, 2]]


def test_identity_is_refused_for_what_is_no_square() -> None:
    with pytest.raises(InvalidModel, match=r"\[2, 3\]"):
        weights_of(Identity(1.0), (2, 3), seed="")


def test_uniform_weights_fill_their_range_evenly() -> None:
    weights = weights_of(Uniform(-1.0, 3.0), (200_000,), seed="u")
    assert weights.min() >= -1
    assert weights.max() <= 3
    assert abs(weights.mean() - 1) < 0.01
    assert abs(weights.std() - 4 / math.sqrt(12)) < 0.01


def test_normal_weights_have_the_mean_spread_and_tails_of_a_normal_distribution() -> None:
    weights = weights_of(Normal(3.0, 2.0, truncated=False), (400_000,), seed="n").astype(np.float64)
    standard = (weights - 3) / 2
    assert abs(standard.mean()) < 0.005
    assert abs(standard.std() - 1) < 0.005
    assert abs((standard**4).mean() - 3) < 0.05
    assert abs((np.abs(standard) > 1.959964).mean() - 0.05) < 0.002


def test_truncated_normal_weights_are_cut_at_two_standard_deviations_and_not_widened() -> None:
    weights = weights_of(Normal(0.0, 0.5, truncated=True), (400_000,), seed="t").astype(np.float64)
    assert np.abs(weights).max() <= 1.0
    assert np.abs(weights).max() > 0.999
    assert abs(weights.std() / (0.5 * CUT_STDDEV) - 1) < 0.005


@pytest.mark.parametrize(
    ("mode", "shape", "fan"),
    [
        ("fan_in", (300, 500), 300),
        ("fan_out", (300, 500), 500),
        ("fan_avg", (300, 500), 400),
        ("fan_in", (3, 3, 64, 128), 9 * 64),
        ("fan_out", (3, 3, 64, 128), 9 * 128),
        ("fan_in", (5, 64, 256), 5 * 64),
        ("fan_avg", (2, 2, 2, 64, 64), 8 * 64),
        ("fan_in", (90_000,), 300),
    ],
)
def test_variance_scaling_counts_the_fan_as_tfjs_does(mode: str, shape: tuple[int, ...], fan: int) -> None:
    normal = weights_of(VarianceScaling(1.0, mode, "normal"), shape, seed="v")
    assert np.abs(normal).max() <= 2 / math.sqrt(fan) * (1 + 1e-6)
    assert abs(normal.std() / (CUT_STDDEV / math.sqrt(fan)) - 1) < 0.02
    uniform = weights_of(VarianceScaling(2.0, mode, "uniform"), shape, seed="v")
    assert np.abs(uniform).max() <= math.sqrt(6 / fan) * (1 + 1e-6)
    assert abs(uniform.std() / math.sqrt(2 / fan) - 1) < 0.02


@pytest.mark.parametrize("shape", [(40, 10), (10, 40), (32, 32), (3, 3, 4, 8)])
def test_orthogonal_weights_are_orthogonal(shape: tuple[int, ...]) -> None:
    matrix = weights_of(Orthogonal(2.0), shape, seed="o").astype(np.float64).reshape(-1, shape[-1])
    product = matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix
    assert np.abs(product - 4 * np.eye(len(product))).max() < 1e-5


def test_an_orthogonal_matrix_that_would_take_minutes_is_refused() -> None:
    with pytest.raises(InvalidModel, match="too long"):
        weights_of(Orthogonal(1.0), (4096, 4096), seed="o")


def test_orthogonal_is_refused_for_a_vector() -> None:
    with pytest.raises(InvalidModel, match="matrices"):
        weights_of(Orthogonal(1.0), (3,), seed="o")


def test_the_forget_gate_of_an_lstm_starts_open() -> None:
    bias = weights_of(ForgetGateOpen(ZEROS), (12,), seed="b")
    assert bias.tolist() == [0] * 3 + [1] * 3 + [0] * 6


def test_weights_are_the_same_however_many_blocks_they_are_made_in() -> None:
    initializer = Uniform(-1.0, 1.0)
    blocks = list(blocks_of(initializer, (200_000,), seed="s"))
    assert len(blocks) == 4
    few = weights_of(initializer, (1000,), seed="s")
    assert np.concatenate(blocks)[:1000].tobytes() == few.tobytes()
    identity = weights_of(Identity(2.0), (300, 300), seed="s")
    assert identity.tobytes() == (2 * np.eye(300, dtype="<f4")).tobytes()
