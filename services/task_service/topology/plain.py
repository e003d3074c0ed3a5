"""Layers that neither convolve, recur nor merge: Dense and its like, normalisation, embedding, reshaping, pooling."""

from __future__ import annotations

import math
from collections.abc import Mapping

from services.task_service.initializers import GLOROT_NORMAL, ONES, ZEROS, Uniform
from services.task_service.topology.document import Config, is_whole
from services.task_service.topology.layer import (
    Built,
    Rule,
    Shape,
    Weight,
    axis_of,
    bias_of,
    check_activation,
    initializer_of,
    known,
    only_input,
)


def same_shape(config: Config, inputs: tuple[Shape, ...]) -> Built:
    return Built((only_input(config, inputs),))


def activation(config: Config, inputs: tuple[Shape, ...]) -> Built:
    check_activation(config)
    return same_shape(config, inputs)


def prelu(config: Config, inputs: tuple[Shape, ...]) -> Built:
    shape = only_input(config, inputs)
    shared = config.get("shared_axes")
    given = shared if isinstance(shared, list) else [] if shared is None else [shared]
    axes = {axis_of(config, axis, len(shape), least=1) for axis in given}
    alpha = tuple(1 if axis in axes else known(config, size) for axis, size in enumerate(shape) if axis)
    return Built((shape,), (Weight("alpha", alpha, initializer_of(config, "alpha_initializer", ZEROS)),))


def dense(config: Config, inputs: tuple[Shape, ...]) -> Built:
    shape = only_input(config, inputs)
    if len(shape) < 2:
        raise config.refusal("takes inputs of 2 dimensions or more with the batch")
    check_activation(config)
    units = config.whole("units")
    kernel = (known(config, shape[-1]), units)
    weights = (Weight("kernel", kernel, initializer_of(config, "kernel_initializer", GLOROT_NORMAL)),)
    return Built(((*shape[:-1], units),), weights + bias_of(config, units))


def embedding(config: Config, inputs: tuple[Shape, ...]) -> Built:
    shape = only_input(config, inputs)
    rows, width = config.whole("input_dim"), config.whole("output_dim")
    inside = list(shape[1:])
    if config.has("input_length"):
        length = config.get("input_length")
        lengths = config.shape("input_length") if isinstance(length, list) else (config.whole("input_length"),)
        if len(lengths) != len(inside) or any(a and b and a != b for a, b in zip(lengths, inside, strict=True)):
            raise config.refusal(f"input_length {length} does not fit an input of the shape {list(shape)}")
        inside = [a or b for a, b in zip(lengths, inside, strict=True)]
    initializer = initializer_of(config, "embeddings_initializer", Uniform(-0.05, 0.05))
    return Built(((shape[0], *inside, width),), (Weight("embeddings", (rows, width), initializer),))


def _scale_and_centre(config: Config, shape: tuple[int, ...]) -> tuple[Weight, ...]:
    weights = []
    if config.flag("scale", True):
        weights.append(Weight("gamma", shape, initializer_of(config, "gamma_initializer", ONES)))
    if config.flag("center", True):
        weights.append(Weight("beta", shape, initializer_of(config, "beta_initializer", ZEROS)))
    return tuple(weights)


def batch_normalization(config: Config, inputs: tuple[Shape, ...]) -> Built:
    shape = only_input(config, inputs)
    axis = config.get("axis")
    if isinstance(axis, list) and len(axis) == 1 and is_whole(axis[0]) and axis[0] >= 0:
        # Python Keras writes a list of one; TF.js takes it for the axis itself, unless it is negative.
        axis = axis[0]
    size = (known(config, shape[axis_of(config, -1 if axis is None else axis, len(shape))]),)
    mean = initializer_of(config, "moving_mean_initializer", ZEROS)
    variance = initializer_of(config, "moving_variance_initializer", ONES)
    moving = (
        Weight("moving_mean", size, mean, trainable=False),
        Weight("moving_variance", size, variance, trainable=False),
    )
    return Built((shape,), _scale_and_centre(config, size) + moving)


def layer_normalization(config: Config, inputs: tuple[Shape, ...]) -> Built:
    shape = only_input(config, inputs)
    axis = config.get("axis")
    given = axis if isinstance(axis, list) else [-1 if axis is None else axis]
    axes = [axis_of(config, each, len(shape)) for each in given]
    if len(set(axes)) != len(axes):
        raise config.refusal("axis names the same axis twice")
    return Built((shape,), _scale_and_centre(config, tuple(known(config, shape[each]) for each in axes)))


def flatten(config: Config, inputs: tuple[Shape, ...]) -> Built:
    shape = only_input(config, inputs)
    return Built(((shape[0], math.prod(known(config, size) for size in shape[1:])),))


def reshape(config: Config, inputs: tuple[Shape, ...]) -> Built:
    shape = only_input(config, inputs)
    target = config.get("target_shape")
    if not isinstance(target, list) or len(target) > 8 or not all(size is None or is_whole(size) for size in target):
        raise config.refusal("target_shape must be a list of at most 8 whole numbers")
    wanted: list[int | None] = [None if size is None or size < 0 else int(size) for size in target]
    # While any dimension is open, and the batch nearly always is, TF.js takes the target as it stands.
    if None not in shape:
        wanted = _fitted(config, wanted, math.prod(size for size in shape[1:] if size is not None))
    return Built(((shape[0], *wanted),))


def _fitted(config: Config, wanted: list[int | None], total: int) -> list[int | None]:
    rest = math.prod(size for size in wanted if size is not None)
    if wanted.count(None) > 1 or rest == 0 or total % rest or (None not in wanted and total != rest):
        raise config.refusal(f"{total} values cannot take the shape {wanted}")
    return [total // rest if size is None else size for size in wanted]


def permute(config: Config, inputs: tuple[Shape, ...]) -> Built:
    shape = only_input(config, inputs)
    order = config.wholes("dims", len(shape) - 1)
    if sorted(order) != list(range(1, len(shape))):
        raise config.refusal("dims must be a permutation of the axes of the input, from 1")
    return Built(((shape[0], *(shape[axis] for axis in order)),))


def repeat_vector(config: Config, inputs: tuple[Shape, ...]) -> Built:
    shape = only_input(config, inputs, rank=2)
    return Built(((shape[0], config.whole("n"), shape[1]),))


def rescaling(config: Config, inputs: tuple[Shape, ...]) -> Built:
    config.number("scale", 1.0)
    config.number("offset", 0.0)
    return same_shape(config, inputs)


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(
        [
            "ReLU",
            "LeakyReLU",
            "ELU",
            "ThresholdedReLU",
            "Softmax",
            "Masking",
            "Dropout",
            "SpatialDropout1D",
            "GaussianNoise",
            "GaussianDropout",
            "AlphaDropout",
        ],
        same_shape,
    ),
    "Activation": activation,
    "PReLU": prelu,
    "Dense": dense,
    "Embedding": embedding,
    "BatchNormalization": batch_normalization,
    "LayerNormalization": layer_normalization,
    "Flatten": flatten,
    "Reshape": reshape,
    "Permute": permute,
    "RepeatVector": repeat_vector,
    "Rescaling": rescaling,
}
