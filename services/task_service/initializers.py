"""Initial weights: every initializer of TF.js, with the same bytes on every machine.

The generator is Philox, keyed by the SHA-256 of the task id and the tensor's
name; on top of its raw 64-bit words there are only additions,
multiplications, divisions and square roots, which IEEE 754 defines to the last bit
(library logarithms, LAPACK and NumPy's own samplers are not the same everywhere).

Distributions are TF.js', also where Keras differs: a "normal" of
VarianceScaling is cut at two standard deviations and *not* widened to make
up for the cut (protocol section 6.2).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learning.refusals import InvalidModel

Doubles = NDArray[np.float64]

_BLOCK = 1 << 16
"""Pairs of random words worked on at a time: what fits the cache."""
MAX_ORTHOGONAL_WORK = 2**32
"""Multiplications that making one orthogonal matrix may take: some seconds."""


@dataclass(frozen=True, slots=True)
class Constant:
    value: float


@dataclass(frozen=True, slots=True)
class Uniform:
    """From `low` to below `high`."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Normal:
    mean: float
    stddev: float
    truncated: bool
    """Values beyond two standard deviations are drawn again."""


@dataclass(frozen=True, slots=True)
class VarianceScaling:
    scale: float = 1.0
    mode: str = "fan_avg"
    """fan_in, fan_out or fan_avg."""
    distribution: str = "normal"
    """normal or uniform."""


@dataclass(frozen=True, slots=True)
class Orthogonal:
    gain: float


@dataclass(frozen=True, slots=True)
class Identity:
    gain: float


@dataclass(frozen=True, slots=True)
class ForgetGateOpen:
    """Bias of an LSTM: ones for the forget gate, `others` for the other three."""

    others: Initializer


Initializer = Constant | Uniform | Normal | VarianceScaling | Orthogonal | Identity | ForgetGateOpen

ZEROS = Constant(0.0)
ONES = Constant(1.0)
GLOROT_NORMAL = VarianceScaling()
GLOROT_UNIFORM = VarianceScaling(distribution="uniform")
LECUN_NORMAL = VarianceScaling(mode="fan_in")


def weights_of(initializer: Initializer, shape: tuple[int, ...], *, seed: str) -> NDArray[np.float32]:
    """Initial weights of one tensor; the same `seed` gives the same bytes. Raises InvalidModel."""
    return np.concatenate([np.empty(0, "<f4"), *blocks_of(initializer, shape, seed=seed)]).reshape(shape)


def blocks_of(initializer: Initializer, shape: tuple[int, ...], *, seed: str) -> Iterator[NDArray[np.float32]]:
    """The same, bit by bit: memory for a block, however large the tensor, but for an orthogonal one."""
    for block in _make(initializer, shape, _words(seed)):
        yield np.asarray(block, dtype="<f4").reshape(-1)


def _make(initializer: Initializer, shape: tuple[int, ...], words: np.random.Philox) -> Iterator[Doubles]:
    count = math.prod(shape)
    match initializer:
        case Constant(value):
            yield from (np.full(size, value) for size in _sizes(count))
        case Uniform(low, high):
            yield from (low + (high - low) * _unit(words, size) for size in _sizes(count))
        case Normal(mean, stddev, truncated):
            normals = _normals(words, count, bound=2.0 if truncated else math.inf)
            yield from (mean + stddev * block for block in normals)
        case VarianceScaling(scale, mode, distribution):
            variance = scale / max(1.0, _fan(shape, mode))
            if distribution == "normal":
                yield from (math.sqrt(variance) * block for block in _normals(words, count, bound=2.0))
            else:
                limit = math.sqrt(3 * variance)
                yield from (limit * (2 * _unit(words, size) - 1) for size in _sizes(count))
        case Orthogonal(gain):
            yield gain * _orthogonal(words, shape)
        case Identity(gain):
            if len(shape) != 2 or shape[0] != shape[1]:
                raise InvalidModel(problem=f"the initializer Identity is for square matrices, not for {list(shape)}")
            side, done = shape[0], 0
            for size in _sizes(count):
                places = np.arange(done, done + size)
                yield gain * (places % (side + 1) == 0).astype(np.float64)
                done += size
        case ForgetGateOpen(others):
            quarter = (count // 4,)
            yield from _make(others, quarter, words)
            yield from (np.ones(size) for size in _sizes(count // 4))
            yield from _make(others, (count // 2,), words)


def _sizes(count: int) -> Iterator[int]:
    """Of the blocks that come to so many weights."""
    return (min(_BLOCK, count - done) for done in range(0, count, _BLOCK))


def _fan(shape: tuple[int, ...], mode: str) -> float:
    """Weights that one output (fan_in) or one input (fan_out) has to do with, counted as TF.js counts them."""
    if len(shape) in (2, 3, 4, 5):
        field = math.prod(shape[:-2])
        fan_in, fan_out = float(shape[-2] * field), float(shape[-1] * field)
    else:
        fan_in = fan_out = math.sqrt(math.prod(shape))
    return {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]


def _words(seed: str) -> np.random.Philox:
    return np.random.Philox(key=int.from_bytes(hashlib.sha256(seed.encode()).digest()[:16], "little"))


def _unit(words: np.random.Philox, count: int) -> Doubles:
    """Uniform from 0 to below 1, in steps of 2^-53."""
    return np.asarray((words.random_raw(count) >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def _normals(words: np.random.Philox, count: int, *, bound: float) -> Iterator[Doubles]:
    """Standard normal values, none beyond ±`bound`."""
    missing = count
    for block in _polar(words, pairs=min(_BLOCK, max(count, 64))):
        kept = block[np.abs(block) <= bound][:missing]
        missing -= len(kept)
        yield kept
        if not missing:
            break


def _polar(words: np.random.Philox, *, pairs: int) -> Iterator[Doubles]:
    """Endless standard normal values by the polar method of Marsaglia and Bray, from `pairs` of words at a time."""
    while True:
        points = (2 * _unit(words, 2 * pairs) - 1).reshape(2, pairs)
        squares = points[0] * points[0] + points[1] * points[1]
        inside = (squares < 1) & (squares > 0)
        square = squares[inside]
        yield (points[:, inside] * np.sqrt(-2 * _log(square) / square)).reshape(-1)


def _log(positive: Doubles) -> Doubles:
    """Natural logarithm from arithmetic alone, to about 1e-15: 2·artanh((m − 1)/(m + 1)) + e·ln 2 of m·2^e."""
    mantissa, exponent = np.frexp(positive)
    low = mantissa < math.sqrt(0.5)
    mantissa = np.where(low, 2 * mantissa, mantissa)
    exponent = exponent - low
    ratio = (mantissa - 1) / (mantissa + 1)
    square = ratio * ratio
    series = np.full_like(ratio, 1 / 21)
    for odd in range(19, 0, -2):
        series = series * square + 1 / odd
    return np.asarray(2 * ratio * series + exponent * 0.6931471805599453, dtype=np.float64)


def _orthogonal(words: np.random.Philox, shape: tuple[int, ...]) -> Doubles:
    """Orthonormal columns (rows, where there are more columns), by Gram-Schmidt done twice."""
    if len(shape) < 2:
        raise InvalidModel(problem=f"the initializer Orthogonal is for matrices, not for {list(shape)}")
    rows, columns = math.prod(shape[:-1]), shape[-1]
    long, short = max(rows, columns), min(rows, columns)
    if long * short * short > MAX_ORTHOGONAL_WORK:
        raise InvalidModel(problem=f"an orthogonal matrix of {list(shape)} takes too long to make; send weights")
    vectors = np.concatenate(list(_normals(words, long * short, bound=math.inf))).reshape(short, long)
    for index in range(short):
        vector = vectors[index]
        for _ in range(2):
            vector = vector - _sum_rows(vectors[:index] * _dots(vectors[:index], vector)[:, None], long)
        vectors[index] = vector / np.sqrt(_dots(vector[None, :], vector))
    return vectors if rows < columns else vectors.T


def _sum_rows(matrix: Doubles, width: int) -> Doubles:
    """Row by row: NumPy's own sums may pair the terms differently on another processor."""
    total = np.zeros(width)
    for row in matrix:
        total += row
    return total


def _dots(vectors: Doubles, vector: Doubles) -> Doubles:
    """Every vector's inner product with `vector`, added up by halving, for the same reason."""
    products = vectors * vector
    while products.shape[1] > 1:
        if products.shape[1] % 2:
            products = np.concatenate([products, np.zeros((len(products), 1))], axis=1)
        half = products.shape[1] // 2
        products = products[:, :half] + products[:, half:]
    return products[:, 0]
