"""Layers with several inputs and no weights."""

from __future__ import annotations

from collections.abc import Mapping

from services.task_service.topology.document import Config
from services.task_service.topology.layer import Built, Rule, Shape, axis_of


def elementwise(config: Config, inputs: tuple[Shape, ...]) -> Built:
    """Shapes are matched from their ends; 1 stretches."""
    _check_several(config, inputs)
    inside = inputs[0][1:]
    for other in inputs[1:]:
        inside = _broadcast(config, inside, other[1:])
    batches = {shape[0] for shape in inputs if shape[0] is not None}
    return Built(((batches.pop() if len(batches) == 1 else None, *inside),))


def _broadcast(config: Config, first: Shape, second: Shape) -> Shape:
    long, short = (first, second) if len(first) >= len(second) else (second, first)
    padded = (*long[: len(long) - len(short)], *short)
    merged: list[int | None] = list(long[: len(long) - len(short)])
    for one, other in zip(long[len(merged) :], padded[len(merged) :], strict=True):
        if one is None or other is None:
            merged.append(None)
        elif one != other and 1 not in (one, other):
            raise config.refusal(f"the shapes {list(first)} and {list(second)} do not fit each other")
        else:
            merged.append(other if one == 1 else one)
    return tuple(merged)


def concatenate(config: Config, inputs: tuple[Shape, ...]) -> Built:
    _check_several(config, inputs)
    rank = len(inputs[0])
    axis = axis_of(config, -1 if config.get("axis") is None else config.get("axis"), rank, least=1)
    for shape in inputs[1:]:
        apart = [place for place in range(rank) if place != axis]
        if len(shape) != rank or any(shape[place] != inputs[0][place] for place in apart):
            raise config.refusal("its inputs differ in more than the axis along which they are joined")
    sizes = [shape[axis] for shape in inputs]
    joined = None if None in sizes else sum(size for size in sizes if size is not None)
    return Built(((*inputs[0][:axis], joined, *inputs[0][axis + 1 :]),))


def dot(config: Config, inputs: tuple[Shape, ...]) -> Built:
    if len(inputs) != 2 or any(len(shape) > 3 for shape in inputs):
        raise config.refusal("takes two inputs of at most 3 dimensions with the batch")
    axes = config.get("axes")
    both = axes if isinstance(axes, list) and len(axes) == 2 else [axes, axes]
    first, second = (axis_of(config, axis, len(shape), least=1) for axis, shape in zip(both, inputs, strict=True))
    if inputs[0][first] != inputs[1][second]:
        raise config.refusal("the sizes along its axes differ")
    left = [size for place, size in enumerate(inputs[0]) if place != first]
    right = [size for place, size in enumerate(inputs[1]) if place not in (0, second)]
    output = (*left, *right)
    return Built((output if len(output) > 1 else (*output, 1),))


def _check_several(config: Config, inputs: tuple[Shape, ...]) -> None:
    if len(inputs) < 2:
        raise config.refusal("takes at least two inputs")


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Add", "Multiply", "Average", "Maximum", "Minimum"), elementwise),
    "Concatenate": concatenate,
    "Dot": dot,
}
