"""The last check before the sum, where a task asks for it: how far a contribution changes the model.

The norms it is compared with are those of admitted contributions, remembered by the commit that
admits them: each once, whoever dies. What is refused here was never in a sum. Two
replicas that judge at the same moment may know a norm more or less than each other: a
limit that moves slowly is all that is promised. What is admitted is counted as ever.

Knows the blob store and the norms in the round store; what is too far is `learning.norm_gate`.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np

from blobstore import records
from blobstore.store import BlobStore
from learning.federated import RoundStatus
from learning.ids import TaskId
from learning.refusals import StoredDataDamaged, VersionNotFound
from roundstore.store import RoundStore
from rpc.off_loop import off_loop
from services.aggregator.offers import Offered
from services.aggregator.rounds import Rounds
from services.aggregator.sum_plan import BLOCK, Weights, as_weights

BASES_BYTES = 64 << 20
"""Of versions that contributions are compared with; the newest is kept whatever its size."""


class Norms:
    """The norms of the contributions to all tasks."""

    def __init__(self, store: RoundStore, blobs: BlobStore, rounds: Rounds) -> None:
        self._store = store
        self._blobs = blobs
        self._rounds = rounds
        self._bases: OrderedDict[tuple[TaskId, str], Weights] = OrderedDict()

    async def check(self, offered: Offered, status: RoundStatus) -> float | None:
        """The norm of a contribution that is sound in itself; None where the task does not ask.

        None, too, where nothing that it could be compared with is kept any more: so far has the round moved that no
        commit to it succeeds. Raises NormTooLarge.
        """
        gate = (await self._rounds.task(status.task_id)).norm_gate
        if gate is None:
            return None
        base = await self._base(status, offered.base_round)
        if base is None:
            return None
        norm = await off_loop(len(offered.weights), _norm, as_weights(offered.weights), base)
        gate.check(norm, await self._store.read_norms(status.task_id))
        return norm

    async def _base(self, status: RoundStatus, number: int) -> Weights | None:
        """The version that a contribution started from, or, where that cannot be read any more, the newest."""
        entry = await records.read_ledger_entry(self._blobs, status.task_id, number)
        key = status.task_id, entry.digest
        if key not in self._bases:
            try:
                self._keep(key, as_weights(await records.read_weights(self._blobs, status.task_id, entry)))
            except (VersionNotFound, StoredDataDamaged):
                return await self._base(status, status.number) if number < status.number else None
        self._bases.move_to_end(key)
        return self._bases[key]

    def _keep(self, key: tuple[TaskId, str], base: Weights) -> None:
        self._bases[key] = base
        while len(self._bases) > 1 and sum(each.nbytes for each in self._bases.values()) > BASES_BYTES:
            self._bases.popitem(last=False)


def _norm(weights: Weights, base: Weights) -> float:
    """In float64, block by block: what the square of a float32 could not hold, and no copy of the whole."""
    difference = np.empty(min(BLOCK, weights.size), dtype=np.float64)
    squares = 0.0
    for start in range(0, weights.size, BLOCK):
        stop = min(start + BLOCK, weights.size)
        block = np.subtract(weights[start:stop], base[start:stop], out=difference[: stop - start], dtype=np.float64)
        squares += float(np.dot(block, block))
    return math.sqrt(squares)
