"""A server optimizer taken over a whole model, block by block. Pure: NumPy, no store.

The base version, the mean and the optimizer's state are float64 while it is worked on
them; the next weights are rounded once to float32. Weights that would leave its range
stay at its end, so that a learning rate that is far too large ruins a model but not its task.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from blobstore.store import Buffer
from services.aggregator.rules.server_optimizers import Numbers, ServerOptimizer
from services.aggregator.sum_plan import Weights, as_weights

_LARGEST = float(np.finfo(np.float32).max)

State = NDArray[np.float64]
"""One row for each number that an optimizer keeps per weight. As bytes: row after row, little-endian."""


def first_state(optimizer: ServerOptimizer, size: int) -> State:
    """What the first round of a model of so many weights begins with."""
    state: State = np.empty((len(optimizer.first_state), size), dtype="<f8")
    for row, number in zip(state, optimizer.first_state, strict=True):
        row.fill(number)
    return state


def octets_of(state: State) -> memoryview:
    """The state as bytes, without copying it."""
    return state.reshape(-1).view(np.uint8).data


def stepped(
    optimizer: ServerOptimizer, base: Buffer, mean: Iterable[tuple[int, int, Numbers]], state: State
) -> memoryview:
    """The next weights, as canonical bytes; `state` becomes the next one. `mean` comes in blocks, with their places."""
    base_weights = as_weights(base)
    weights: Weights = np.empty(base_weights.size, dtype="<f4")
    for start, stop, block in mean:
        rows = [row[start:stop] for row in state]
        following = optimizer.next(base_weights[start:stop].astype(np.float64), block, rows)
        weights[start:stop] = np.clip(following, -_LARGEST, _LARGEST)
    return weights.view(np.uint8).data
