"""Recurrent layers: SimpleRNN, GRU, LSTM."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from services.task_service.initializers import GLOROT_NORMAL, ZEROS, ForgetGateOpen, Orthogonal
from services.task_service.topology.document import Config
from services.task_service.topology.layer import (
    Built,
    Rule,
    Shape,
    Weight,
    check_activation,
    initializer_of,
    known,
    only_input,
)


def recurrent(config: Config, inputs: tuple[Shape, ...], *, gates: int, states: int) -> Built:
    """A layer with `gates` blocks of weights side by side that carries `states` vectors from step to step."""
    # Further inputs are initial states.
    shape = only_input(config, inputs[:1], rank=3)
    check_activation(config)
    check_activation(config, "recurrent_activation")
    if config.flag("reset_after", False):
        raise config.refusal("reset_after is unknown to TF.js; set it to false")
    units = config.whole("units")
    bias = initializer_of(config, "bias_initializer", ZEROS)
    if config.flag("unit_forget_bias", False):
        bias = ForgetGateOpen(bias)
    weights = [
        Weight(
            "kernel",
            (known(config, shape[2]), gates * units),
            initializer_of(config, "kernel_initializer", GLOROT_NORMAL),
        ),
        Weight(
            "recurrent_kernel",
            (units, gates * units),
            initializer_of(config, "recurrent_initializer", Orthogonal(1.0)),
        ),
    ]
    if config.flag("use_bias", True):
        weights.append(Weight("bias", (gates * units,), bias))
    output: Shape = (shape[0], shape[1], units) if config.flag("return_sequences", False) else (shape[0], units)
    carried: tuple[Shape, ...] = ((shape[0], units),) * states if config.flag("return_state", False) else ()
    return Built((output, *carried), tuple(weights))


RULES: Mapping[str, Rule] = {
    "SimpleRNN": partial(recurrent, gates=1, states=1),
    "GRU": partial(recurrent, gates=3, states=1),
    "LSTM": partial(recurrent, gates=4, states=2),
}
