"""A room for tests: a task with a small model, replicas behind real gRPC servers, participants that contribute."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from disco.aggregator.v1 import aggregator_service_pb2, aggregator_service_pb2_grpc, round_pb2

from blobstore.directory import DirectoryBlobStore
from blobstore.records import Model, WeightSpec
from blobstore.store import BlobStore
from learning.aggregation import Aggregation
from learning.federated import RoundStatus
from learning.ids import TaskId
from learning.norm_gate import NormGate
from learning.policy import Policy
from learning.task import DataKind, DisplayInformation, Scheme, Task, TrainingInformation
from roundstore.store import RoundStore
from rpc.channel import connect
from rpc.metrics import new_registry
from rpc.server import serve
from rpc.settings import ServerSettings, load
from services.aggregator.receipt_key import ReceiptKey, new_pem
from services.aggregator.replica import Replica
from tests.blobstore.tasks import write_task
from tests.services.aggregator import fractions_mean

TASK = TaskId("titanic")
SPECS = (WeightSpec("dense/kernel", (3, 2)), WeightSpec("dense/bias", (2,)), WeightSpec("small/kernel", (4,)))
BASE = [0.5, -1.0, 0.25, 0.75, 2.0, -0.125, 0.0, 0.0, 0.01, -0.02, 0.03, 0.001]
"""Two tensors with one limb, one with two."""
RECEIPT_KEY = ReceiptKey.from_pem(new_pem())
WAIT_S = 20.0


def octets(values: Sequence[float]) -> bytes:
    return np.array(values, dtype="<f4").tobytes()


def floats(weights: bytes) -> list[float]:
    return [float(value) for value in np.frombuffer(weights, dtype="<f4")]


def weights_of(seed: int) -> bytes:
    """What a participant might have learned."""
    random = np.random.default_rng(seed)
    return octets(
        [weight + 0.1 * float(step) for weight, step in zip(BASE, random.standard_normal(len(BASE)), strict=True)]
    )


def exact_mean(base: bytes, contributions: Iterable[tuple[bytes, int]], weight_cap: int = 2**20) -> bytes:
    """The promised mean of weighted contributions, tensor by tensor."""
    weighted = [(floats(weights), weight) for weights, weight in contributions]
    mean, start = b"", 0
    for spec in SPECS:
        stop = start + spec.size
        of_tensor = [(values[start:stop], weight) for values, weight in weighted]
        mean += fractions_mean.promised_mean(floats(base)[start:stop], weight_cap, of_tensor)
        start = stop
    return mean


def a_task(
    policy: Policy,
    *,
    scheme: Scheme = Scheme.FEDERATED,
    task_id: TaskId = TASK,
    specs: Sequence[WeightSpec] = SPECS,
    aggregation: Aggregation | None = None,
    norm_gate: NormGate | None = None,
) -> tuple[Task, Model]:
    task = Task(
        task_id=task_id,
        scheme=scheme,
        data_kind=DataKind.TABULAR,
        display=DisplayInformation(title="A task"),
        training=TrainingInformation(epochs=1, batch_size=1, input_columns=("a",), output_columns=("b",)),
        policy=policy,
        aggregation=aggregation,
        norm_gate=norm_gate,
    )
    return task, Model(kind="tfjs", topology_json="{}", weight_specs=tuple(specs))


@dataclass
class Clock:
    """Runs like time does, and can be moved on."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@dataclass
class Member:
    """A replica of the room, and a stub that calls it."""

    replica: Replica
    stub: Any
    stop: asyncio.Event

    async def round(self) -> round_pb2.Round:
        response = await self.stub.GetRound(aggregator_service_pb2.GetRoundRequest(task_id=TASK))
        return response.round  # type: ignore[no-any-return]

    async def join(self, participant: str, task_id: str = TASK, *, through: str = "") -> round_pb2.Round:
        response = await self.stub.JoinTask(
            aggregator_service_pb2.JoinTaskRequest(task_id=task_id, participant_id=participant, connection_id=through)
        )
        return response.round  # type: ignore[no-any-return]

    async def leave(self, participant: str, *, through: str = "") -> round_pb2.Round:
        response = await self.stub.LeaveTask(
            aggregator_service_pb2.LeaveTaskRequest(task_id=TASK, participant_id=participant, connection_id=through)
        )
        return response.round  # type: ignore[no-any-return]

    async def submit(
        self,
        participant: str,
        weights: bytes,
        *,
        round: int = 0,
        sample_count: int = 0,
        task_id: str = TASK,
        digest: bytes | None = None,
        chunk: int = 16,
    ) -> round_pb2.Receipt:
        header = aggregator_service_pb2.SubmitContributionRequest.Header(
            task_id=task_id,
            participant_id=participant,
            round=round,
            sha256=hashlib.sha256(weights).digest() if digest is None else digest,
            sample_count=sample_count,
        )
        messages = [aggregator_service_pb2.SubmitContributionRequest(header=header)]
        messages += [
            aggregator_service_pb2.SubmitContributionRequest(weights_chunk=weights[start : start + chunk])
            for start in range(0, len(weights), chunk)
        ]
        response = await self.stub.SubmitContribution(iter(messages))
        return response.receipt  # type: ignore[no-any-return]

    async def version(self, number: int | None = None) -> tuple[int, bytes]:
        """The number and the weights of a version."""
        request = aggregator_service_pb2.ReadVersionRequest(task_id=TASK, version=number)
        header, weights = None, b""
        async for message in self.stub.ReadVersion(request):
            if message.WhichOneof("part") == "header":
                header = message.header
            weights += message.weights_chunk
        assert header is not None
        assert (len(weights), hashlib.sha256(weights).digest()) == (header.weights_size, header.sha256)
        return header.version, weights

    async def reaches(self, number: int) -> round_pb2.Round:
        """Waits for a round, on the stream of rounds."""
        async with asyncio.timeout(WAIT_S):
            watching = self.stub.WatchRounds(aggregator_service_pb2.WatchRoundsRequest(task_id=TASK))
            try:
                async for response in watching:
                    if response.round.number >= number:
                        return response.round  # type: ignore[no-any-return]
            finally:
                watching.cancel()
        raise AssertionError("the stream of rounds ended")


@dataclass
class Room:
    """Replicas over shared stores. Use `opened`."""

    store: RoundStore
    blobs: BlobStore
    clock: Clock = field(default_factory=Clock)
    options: dict[str, Any] = field(default_factory=dict)

    async def add_task(self, policy: Policy, **more: Any) -> None:
        task, model = a_task(policy, **more)
        weights = octets(BASE) if model.size == len(BASE) else bytes(4 * model.size)
        await write_task(self.blobs, task, model, weights, request_id="", now=1.0)

    async def status(self) -> RoundStatus:
        status = await self.store.read_status(TASK)
        assert status is not None
        return status

    def new_replica(self, store: RoundStore | None = None, **options: Any) -> Replica:
        defaults: dict[str, Any] = {
            "receipt_key": RECEIPT_KEY,
            "participant_lease_s": 30.0,
            "max_bytes": 1 << 27,
            "upload_memory_bytes": 1 << 27,
        }
        return Replica(
            store or self.store,
            self.blobs,
            registry=new_registry(),
            clock=self.clock,
            **{**defaults, **self.options, **options},
        )

    @asynccontextmanager
    async def member(
        self, store: RoundStore | None = None, *, attending: bool = True, **options: Any
    ) -> AsyncIterator[Member]:
        """A replica that serves while the block runs; one that does not attend closes no round by itself."""
        replica = self.new_replica(store, **options)
        stop, listening = asyncio.Event(), asyncio.get_running_loop().create_future()

        def add_servicers(server: grpc.aio.Server) -> None:
            aggregator_service_pb2_grpc.add_AggregatorServiceServicer_to_server(replica.servicer, server)

        async with replica.running() if attending else nullcontext():
            serving = asyncio.create_task(
                serve(
                    add_servicers,
                    names=["disco.aggregator.v1.AggregatorService"],
                    host="127.0.0.1",
                    port=0,
                    settings=load(ServerSettings),
                    endless=["/disco.aggregator.v1.AggregatorService/WatchRounds"],
                    ready=listening.set_result,
                    stop=stop,
                )
            )
            try:
                port = await listening
                async with connect(f"127.0.0.1:{port}") as channel:
                    yield Member(replica, aggregator_service_pb2_grpc.AggregatorServiceStub(channel), stop)
            finally:
                stop.set()
                await serving

    @asynccontextmanager
    async def members(self, count: int) -> AsyncIterator[list[Member]]:
        async with asyncio.timeout(60), _all([self.member for _ in range(count)]) as members:
            yield members


@asynccontextmanager
async def _all(openers: Sequence[Callable[[], Any]]) -> AsyncIterator[list[Member]]:
    if not openers:
        yield []
        return
    async with openers[0]() as first, _all(openers[1:]) as others:
        yield [first, *others]


@asynccontextmanager
async def opened(
    store: RoundStore,
    path: Path,
    policy: Policy | None = None,
    *,
    aggregation: Aggregation | None = None,
    norm_gate: NormGate | None = None,
    **options: Any,
) -> AsyncIterator[Room]:
    """A room with the task "titanic" in it."""
    async with DirectoryBlobStore(path) as blobs:
        room = Room(store, blobs, options=options)
        await room.add_task(
            policy
            or Policy(min_participants=1, quorum_share=None, quorum_count=3, deadline_s=600, staleness_weights=(1,)),
            aggregation=aggregation,
            norm_gate=norm_gate,
        )
        yield room
