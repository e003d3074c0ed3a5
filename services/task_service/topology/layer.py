"""What a layer is here: from its configuration and the shapes of its inputs, the shapes of its outputs and its weights.

Knows no graph and no layer class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.task_service.initializers import (
    GLOROT_NORMAL,
    GLOROT_UNIFORM,
    LECUN_NORMAL,
    ONES,
    ZEROS,
    Constant,
    Identity,
    Initializer,
    Normal,
    Orthogonal,
    Uniform,
    VarianceScaling,
)
from services.task_service.topology.document import MAX_DIMENSION, Config, is_whole

Shape = tuple[int | None, ...]
"""With the batch as its first dimension; None where a dimension is open."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of a layer. A layer's rule gives its name within the layer, a network the whole name."""

    name: str
    shape: tuple[int, ...]
    initializer: Initializer
    trainable: bool = True


@dataclass(frozen=True, slots=True)
class Built:
    """A layer on its inputs."""

    outputs: tuple[Shape, ...]
    weights: tuple[Weight, ...] = ()


Rule = Callable[[Config, tuple[Shape, ...]], Built]

_ACTIVATIONS = frozenset(
    [
        "elu",
        "selu",
        "relu",
        "relu6",
        "linear",
        "sigmoid",
        "hard_sigmoid",
        "softplus",
        "softsign",
        "tanh",
        "softmax",
        "log_softmax",
        "gelu",
        "mish",
        "swish",
    ]
)

_HE_UNIFORM = VarianceScaling(scale=2.0, mode="fan_in", distribution="uniform")
_HE_NORMAL = VarianceScaling(scale=2.0, mode="fan_in")
_LECUN_UNIFORM = VarianceScaling(mode="fan_in", distribution="uniform")


def only_input(config: Config, inputs: tuple[Shape, ...], *, rank: int | None = None) -> Shape:
    """The one input; with `rank` dimensions, the batch included, where that is said."""
    if len(inputs) != 1:
        raise config.refusal(f"takes one input, not {len(inputs)}")
    if rank is not None and len(inputs[0]) != rank:
        raise config.refusal(f"takes inputs of {rank} dimensions with the batch, not {len(inputs[0])}")
    return inputs[0]


def known(config: Config, dimension: int | None) -> int:
    """A dimension on which weights depend."""
    if dimension is None:
        raise config.refusal("its weights depend on a dimension of its input that is open; give it a size")
    return dimension


def axis_of(config: Config, axis: object, rank: int, *, least: int = 0) -> int:
    """An axis of an input of `rank` dimensions, counted from the start; from `least` on."""
    if not is_whole(axis):
        raise config.refusal("an axis must be a whole number")
    assert isinstance(axis, int | float)
    counted = int(axis) + rank if axis < 0 else int(axis)
    if not least <= counted < rank:
        raise config.refusal(f"an input of {rank} dimensions with the batch has no axis {int(axis)} to work on")
    return counted


def check_shape(config: Config, shape: Shape) -> None:
    if any(size is not None and not 1 <= size <= MAX_DIMENSION for size in shape):
        raise config.refusal(f"its output would have the shape {list(shape)}")


def check_activation(config: Config, key: str = "activation") -> None:
    value = config.get(key)
    if isinstance(value, dict):
        value = value.get("class_name")
    if value is None:
        return
    if not isinstance(value, str) or value.replace("hardSigmoid", "hard_sigmoid").lower() not in _ACTIVATIONS:
        raise config.refusal(f"{key} is not one that TF.js knows; use one of {', '.join(sorted(_ACTIVATIONS))}")


def initializer_of(config: Config, key: str, default: Initializer) -> Initializer:
    """The initializer that `key` asks for: a name, or an object with class_name and config."""
    value = config.get(key)
    if value is None:
        return default
    where = f"{config.where}: {key}"
    if isinstance(value, str):
        return _initializer(Config({}, where), value)
    described = config.inner(key, where)
    inside = described.inner("config") if described.has("config") else Config({}, where)
    return _initializer(inside, described.text("class_name"))


def _initializer(config: Config, class_name: str) -> Initializer:
    match class_name.replace("_", "").lower():
        case "zeros":
            return ZEROS
        case "ones":
            return ONES
        case "constant":
            return Constant(config.number("value", 0.0))
        case "randomuniform":
            return Uniform(config.number("minval", -0.05), config.number("maxval", 0.05))
        case "randomnormal":
            return Normal(config.number("mean", 0.0), config.number("stddev", 0.05), truncated=False)
        case "truncatednormal":
            return Normal(config.number("mean", 0.0), config.number("stddev", 0.05), truncated=True)
        case "variancescaling":
            return _variance_scaling(config)
        case "orthogonal":
            return Orthogonal(config.number("gain", 1.0))
        case "identity":
            return Identity(config.number("gain", 1.0))
        case "glorotuniform":
            return GLOROT_UNIFORM
        case "glorotnormal":
            return GLOROT_NORMAL
        case "heuniform":
            return _HE_UNIFORM
        case "henormal":
            return _HE_NORMAL
        case "lecununiform":
            return _LECUN_UNIFORM
        case "lecunnormal":
            return LECUN_NORMAL
        case _:
            raise config.refusal(f"TF.js has no initializer {class_name}; use another one, VarianceScaling for example")


def _variance_scaling(config: Config) -> VarianceScaling:
    scale = config.number("scale", 1.0)
    if scale <= 0:
        raise config.refusal("scale must be above 0")
    mode = config.choice("mode", ("fan_in", "fan_out", "fan_avg"))
    distribution = config.choice("distribution", ("normal", "uniform", "truncated_normal"))
    return VarianceScaling(scale, mode, "uniform" if distribution == "uniform" else "normal")


def bias_of(config: Config, size: int, *, initializer: Initializer = ZEROS) -> tuple[Weight, ...]:
    """The bias of a layer, if it has one."""
    if not config.flag("use_bias", True):
        return ()
    return (Weight("bias", (size,), initializer_of(config, "bias_initializer", initializer)),)
