"""Convolution, pooling, padding, cropping: layers over one to three dimensions of space."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from services.task_service.initializers import GLOROT_NORMAL
from services.task_service.topology.document import Config
from services.task_service.topology.layer import (
    Built,
    Rule,
    Shape,
    Weight,
    bias_of,
    check_activation,
    initializer_of,
    known,
    only_input,
)

_Space = list[int | None]


def _split(config: Config, shape: Shape) -> tuple[_Space, int | None]:
    """Space and channels of an input."""
    if config.choice("data_format", ("channels_last", "channels_first")) == "channels_first":
        return list(shape[2:]), shape[1]
    return list(shape[1:-1]), shape[-1]


def _joined(config: Config, batch: int | None, space: _Space, channels: int | None) -> Shape:
    if config.choice("data_format", ("channels_last", "channels_first")) == "channels_first":
        return (batch, channels, *space)
    return (batch, *space, channels)


def _window(
    space: _Space, size: tuple[int, ...], *, stride: tuple[int, ...], same: bool, gap: tuple[int, ...]
) -> _Space:
    """What is left of space when a window of `size`, its points `gap` apart, moves over it."""
    moved: _Space = []
    for length, width, step, apart in zip(space, size, stride, gap, strict=True):
        if length is None:
            moved.append(None)
        else:
            reach = length if same else length - (width - 1) * apart
            moved.append((reach + step - 1) // step)
    return moved


def _padding_is_same(config: Config) -> bool:
    return config.choice("padding", ("valid", "same")) == "same"


def convolution(config: Config, inputs: tuple[Shape, ...], *, rank: int) -> Built:
    shape = only_input(config, inputs, rank=rank + 2)
    check_activation(config)
    if config.whole("groups", 1) != 1:
        raise config.refusal("groups other than 1 are unknown to TF.js")
    filters, size = config.whole("filters"), config.wholes("kernel_size", rank)
    space, channels = _split(config, shape)
    kernel = (*size, known(config, channels), filters)
    initializer = initializer_of(config, "kernel_initializer", GLOROT_NORMAL)
    moved = _window(
        space,
        size,
        stride=config.wholes("strides", rank, 1),
        same=_padding_is_same(config),
        gap=config.wholes("dilation_rate", rank, 1),
    )
    output = _joined(config, shape[0], moved, filters)
    return Built((output,), (Weight("kernel", kernel, initializer), *bias_of(config, filters)))


def transposed_convolution(config: Config, inputs: tuple[Shape, ...], *, rank: int) -> Built:
    shape = only_input(config, inputs, rank=rank + 2)
    check_activation(config)
    filters, size = config.whole("filters"), config.wholes("kernel_size", rank)
    space, channels = _split(config, shape)
    kernel = (*size, filters, known(config, channels))
    initializer = initializer_of(config, "kernel_initializer", GLOROT_NORMAL)
    same = _padding_is_same(config)
    grown = [
        None if length is None else length * step + (0 if same else max(width - step, 0))
        for length, width, step in zip(space, size, config.wholes("strides", rank, 1), strict=True)
    ]
    output = _joined(config, shape[0], grown, filters)
    return Built((output,), (Weight("kernel", kernel, initializer), *bias_of(config, filters)))


def depthwise_convolution(config: Config, inputs: tuple[Shape, ...]) -> Built:
    shape = only_input(config, inputs, rank=4)
    check_activation(config)
    size, multiplier = config.wholes("kernel_size", 2), config.whole("depth_multiplier", 1)
    space, open_channels = _split(config, shape)
    channels = known(config, open_channels)
    initializer = initializer_of(config, "depthwise_initializer", GLOROT_NORMAL)
    # TF.js ignores the dilation rate of this layer, so its output is that of rate 1.
    moved = _window(space, size, stride=config.wholes("strides", 2, 1), same=_padding_is_same(config), gap=(1, 1))
    kernel = Weight("depthwise_kernel", (*size, channels, multiplier), initializer)
    output = _joined(config, shape[0], moved, channels * multiplier)
    return Built((output,), (kernel, *bias_of(config, channels * multiplier)))


def separable_convolution(config: Config, inputs: tuple[Shape, ...]) -> Built:
    shape = only_input(config, inputs, rank=4)
    check_activation(config)
    filters, size = config.whole("filters"), config.wholes("kernel_size", 2)
    multiplier = config.whole("depth_multiplier", 1)
    space, open_channels = _split(config, shape)
    channels = known(config, open_channels)
    depthwise = initializer_of(config, "depthwise_initializer", GLOROT_NORMAL)
    pointwise = initializer_of(config, "pointwise_initializer", GLOROT_NORMAL)
    moved = _window(
        space,
        size,
        stride=config.wholes("strides", 2, 1),
        same=_padding_is_same(config),
        gap=config.wholes("dilation_rate", 2, 1),
    )
    weights = (
        Weight("depthwise_kernel", (*size, channels, multiplier), depthwise),
        Weight("pointwise_kernel", (1, 1, channels * multiplier, filters), pointwise),
        *bias_of(config, filters),
    )
    return Built((_joined(config, shape[0], moved, filters),), weights)


def pooling(config: Config, inputs: tuple[Shape, ...], *, rank: int) -> Built:
    shape = only_input(config, inputs, rank=rank + 2)
    _check_channels_last(config, rank)
    size = config.wholes("pool_size", rank, 2)
    stride = config.wholes("strides", rank) if config.has("strides") else size
    space, channels = _split(config, shape)
    moved = _window(space, size, stride=stride, same=_padding_is_same(config), gap=(1,) * rank)
    return Built((_joined(config, shape[0], moved, channels),))


def global_pooling(config: Config, inputs: tuple[Shape, ...], *, rank: int) -> Built:
    shape = only_input(config, inputs, rank=rank + 2)
    _check_channels_last(config, rank)
    return Built(((shape[0], _split(config, shape)[1]),))


def _check_channels_last(config: Config, rank: int) -> None:
    """TF.js pools along the middle of three axes, whatever the data format says."""
    if rank == 1 and config.choice("data_format", ("channels_last", "channels_first")) != "channels_last":
        raise config.refusal("TF.js knows no data_format channels_first for it")


def up_sampling(config: Config, inputs: tuple[Shape, ...]) -> Built:
    shape = only_input(config, inputs, rank=4)
    space, channels = _split(config, shape)
    factors = config.wholes("size", 2, 2)
    grown = [None if length is None else length * factor for length, factor in zip(space, factors, strict=True)]
    return Built((_joined(config, shape[0], grown, channels),))


def zero_padding(config: Config, inputs: tuple[Shape, ...]) -> Built:
    return _bordered(config, inputs, config.pairs("padding", 1), sign=1)


def cropping(config: Config, inputs: tuple[Shape, ...]) -> Built:
    return _bordered(config, inputs, config.pairs("cropping", 0), sign=-1)


def _bordered(config: Config, inputs: tuple[Shape, ...], borders: tuple[tuple[int, int], ...], *, sign: int) -> Built:
    shape = only_input(config, inputs, rank=4)
    space, channels = _split(config, shape)
    changed = [
        None if length is None else length + sign * sum(both) for length, both in zip(space, borders, strict=True)
    ]
    return Built((_joined(config, shape[0], changed, channels),))


RULES: Mapping[str, Rule] = {
    **{f"Conv{rank}D": partial(convolution, rank=rank) for rank in (1, 2, 3)},
    **{f"Conv{rank}DTranspose": partial(transposed_convolution, rank=rank) for rank in (2, 3)},
    **{f"{kind}Pooling{rank}D": partial(pooling, rank=rank) for kind in ("Max", "Average") for rank in (1, 2, 3)},
    **{
        f"Global{kind}Pooling{rank}D": partial(global_pooling, rank=rank)
        for kind in ("Max", "Average")
        for rank in (1, 2)
    },
    "DepthwiseConv2D": depthwise_convolution,
    "SeparableConv2D": separable_convolution,
    "UpSampling2D": up_sampling,
    "ZeroPadding2D": zero_padding,
    "Cropping2D": cropping,
}
