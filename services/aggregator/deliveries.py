"""New versions on their way out of the replica that made them, which has their weights in memory still.

    with the news of them (WatchRounds)    up to 1 MiB in the message, larger ones in a file
    to whoever reads them (ReadVersion)    larger ones in a file

They are copied into a file: what the replica goes on with is out of reach of whoever may open that. Knows versions and
files; not which rounds there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from disco.aggregator.v1.aggregator_service_pb2 import NewVersion, ReadVersionResponse
from disco.aggregator.v1.handover_pb2 import HandedOver
from disco.task.v1 import task_pb2

from blobstore.records import WeightSpec
from learning.federated import RoundStatus
from rpc.chunks import CHUNK_BYTES
from rpc.handover import Handover
from rpc.off_loop import off_loop
from services.aggregator.rounds import Rounds


@dataclass(frozen=True, slots=True)
class HeldFile:
    """Weights in a file, and what tells of them. The file stays as it is as long as this is held."""

    told: HandedOver
    room: memoryview


@dataclass(frozen=True, slots=True)
class Delivery:
    """A version as it goes out. Hold it as long as it may not have been read."""

    message: NewVersion
    file: HeldFile | None = None


class Deliveries:
    """Of all tasks. Without a handover, nothing goes out in files."""

    def __init__(self, rounds: Rounds, handover: Handover | None) -> None:
        self._rounds = rounds
        self._handover = handover

    async def in_file(self, weights: memoryview) -> HeldFile | None:
        """None where the weights are small, or no room is left."""
        if self._handover is None or len(weights) <= CHUNK_BYTES:
            return None
        return await off_loop(len(weights), _in_file, self._handover, weights)

    async def with_news(self, status: RoundStatus, *, takes_handover: bool) -> Delivery | None:
        """The version that this round starts from; None where it has to be read, for whatever reason."""
        fresh = self._rounds.fresh.base_of(status)
        if fresh is None:
            return None
        known = await self._rounds.task(status.task_id)
        header = header_message(fresh.number, known.weight_specs, size=len(fresh.weights), digest=fresh.digest)
        if len(fresh.weights) <= CHUNK_BYTES:
            return Delivery(NewVersion(header=header, octets=bytes(fresh.weights)))
        file = await self.in_file(fresh.weights) if takes_handover else None
        return None if file is None else Delivery(NewVersion(header=header, handed_over=file.told), file)


def header_message(
    number: int, weight_specs: Sequence[WeightSpec], *, size: int, digest: str
) -> ReadVersionResponse.Header:
    """`size` and `digest` are those of the weights."""
    return ReadVersionResponse.Header(
        version=number,
        weight_specs=[task_pb2.WeightSpec(name=spec.name, shape=spec.shape) for spec in weight_specs],
        weights_size=size,
        sha256=bytes.fromhex(digest),
    )


def _in_file(handover: Handover, weights: memoryview) -> HeldFile | None:
    room = handover.room(len(weights))
    return None if room is None else HeldFile(handover.filled(room, weights), room)
