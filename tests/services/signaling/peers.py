"""What the tests of the signaling service stand on: replicas, and peers that write down what they hear."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from disco.signaling.v1 import signaling_service_pb2_grpc
from disco.signaling.v1.signaling_service_pb2 import ConnectRequest, ConnectResponse
from google.protobuf.duration_pb2 import Duration
from prometheus_client import CollectorRegistry

from blobstore.directory import DirectoryBlobStore
from blobstore.records import Model, WeightSpec
from learning.ids import ReplicaId, TaskId
from learning.policy import Policy
from learning.refusals import DiscoError
from learning.task import DataKind, DisplayInformation, Scheme, Task, TrainingInformation
from roundstore.peer_store import PeerStore
from rpc.channel import connect
from rpc.server import serve
from rpc.settings import ServerSettings, load
from services.signaling.servicer import SignalingServicer
from services.signaling.signaling_metrics import SignalingMetrics
from services.signaling.switchboard import Switchboard
from services.signaling.task_book import TaskBook
from tests.blobstore.tasks import write_task
from tests.waiting import eventually

SERVICE = "disco.signaling.v1.SignalingService"
TASK = TaskId("peers")
Started = ConnectResponse.SessionStarted


def a_task(task_id: str = TASK, *, min_peers: int = 2, scheme: Scheme = Scheme.DECENTRALIZED) -> Task:
    return Task(
        task_id=TaskId(task_id),
        scheme=scheme,
        data_kind=DataKind.TEXT,
        display=DisplayInformation(title="Among peers"),
        training=TrainingInformation(epochs=1, batch_size=1),
        policy=Policy(min_participants=min_peers, deadline_s=60.0),
    )


async def keep_task(directory: Path, task: Task) -> None:
    """Writes a task as the task service does."""
    model = Model(kind="tfjs", topology_json="{}", weight_specs=(WeightSpec("w", (1,)),))
    async with DirectoryBlobStore(directory) as blobs:
        await write_task(blobs, task, model, b"\0\0\0\0", request_id="", now=0.0)


@dataclass
class Replica:
    """One signaling replica in this process."""

    switchboard: Switchboard
    registry: CollectorRegistry
    port: int
    stop: asyncio.Event

    def signals(self, outcome: str) -> float:
        return self.registry.get_sample_value("disco_signals_total", {"outcome": outcome}) or 0.0

    def streams(self) -> float:
        return self.registry.get_sample_value("disco_peer_streams") or 0.0


@asynccontextmanager
async def running_replica(
    store: PeerStore,
    directory: Path,
    *,
    name: str = "replica",
    lease_s: float = 30.0,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[Replica]:
    registry, stop, ready = CollectorRegistry(), asyncio.Event(), asyncio.get_running_loop().create_future()
    switchboard = Switchboard(
        store, replica_id=ReplicaId(name), clock=clock, lease_s=lease_s, metrics=SignalingMetrics(registry)
    )
    async with DirectoryBlobStore(directory) as blobs:
        servicer = SignalingServicer(switchboard, TaskBook(blobs, clock=clock))
        watching = asyncio.create_task(switchboard.watch())
        serving = asyncio.create_task(
            serve(
                lambda server: signaling_service_pb2_grpc.add_SignalingServiceServicer_to_server(servicer, server),
                names=[SERVICE],
                host="127.0.0.1",
                port=0,
                settings=load(ServerSettings),
                registry=registry,
                endless=[f"/{SERVICE}/Connect"],
                ready=ready.set_result,
                stop=stop,
            )
        )
        try:
            yield Replica(switchboard, registry, await ready, stop)
        finally:
            stop.set()
            await serving
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await switchboard.aclose()


@dataclass
class Peer:
    """One peer on one stream. `heard` is everything in its order; a new stream of the same peer goes on with it."""

    heard: list[ConnectResponse] = field(default_factory=list)
    started: Started = field(default_factory=Started)
    error: DiscoError | None = None
    next_round: int = 0

    @property
    def peer_id(self) -> str:
        return self.started.peer_id

    @property
    def lists(self) -> dict[int, list[str]]:
        """Fails where a list came twice."""
        lists = [heard.peers_for_round for heard in self.heard if heard.HasField("peers_for_round")]
        assert len({each.round for each in lists}) == len(lists), "a list came twice"
        return {each.round: list(each.peer_ids) for each in lists}

    @property
    def signals(self) -> list[tuple[str, bytes]]:
        return [(heard.signal.peer_id, heard.signal.body) for heard in self.heard if heard.HasField("signal")]

    @property
    def refused(self) -> list[tuple[str, str]]:
        refused = [heard.signal_refused for heard in self.heard if heard.HasField("signal_refused")]
        return [(each.peer_id, each.reason) for each in refused]

    async def connect(
        self,
        channel: grpc.aio.Channel,
        *,
        task_id: str = TASK,
        client_id: str = "",
        protocol: str = "",
        knows_token: bool = True,
    ) -> Peer:
        """Opens a stream, and takes the session up again where there was one. Raises what the service refuses with."""
        self.error = None
        self.call = signaling_service_pb2_grpc.SignalingServiceStub(channel).Connect()
        start = ConnectRequest.StartSession(
            task_id=task_id, client_id=client_id, next_round=self.next_round, peer_protocol=protocol
        )
        if knows_token:
            start.peer_id, start.session_token = self.started.peer_id, self.started.session_token
        await self.call.write(ConnectRequest(start_session=start))
        self.answers = aiter(self.call)
        first = await anext(self.answers)
        assert first.HasField("session_started"), "it is the first answer"
        self.started = first.session_started
        self.listening = asyncio.create_task(self._listen())
        return self

    async def mark_ready(self, patience_s: float | None = None) -> None:
        request = ConnectRequest(mark_ready=ConnectRequest.MarkReady())
        if patience_s is not None:
            patience = Duration()
            patience.FromNanoseconds(int(patience_s * 1e9))
            request.mark_ready.patience.CopyFrom(patience)
        await self.call.write(request)

    async def send(self, to: str, body: bytes) -> None:
        await self.call.write(ConnectRequest(send_signal=ConnectRequest.SendSignal(peer_id=to, body=body)))

    async def end_session(self) -> None:
        await self.call.write(ConnectRequest(end_session=ConnectRequest.EndSession()))
        await self.over()

    async def break_off(self) -> None:
        """The connection is gone without a word."""
        self.call.cancel()
        await self.over()

    async def over(self) -> None:
        async with asyncio.timeout(15):
            await asyncio.gather(self.listening, return_exceptions=True)

    async def hears_list(self, round: int) -> list[str]:
        await self.hears(lambda: round in self.lists)
        return self.lists[round]

    async def hears(self, what: Callable[[], bool], deadline: float = 15.0) -> None:
        async def holds() -> bool:
            return what()

        await eventually(holds, deadline)

    async def _listen(self) -> None:
        try:
            async for response in self.answers:
                self.heard.append(response)
                if response.HasField("peers_for_round"):
                    self.next_round = response.peers_for_round.round + 1
        except DiscoError as error:
            self.error = error


@asynccontextmanager
async def channel_to(*replicas: Replica) -> AsyncIterator[list[grpc.aio.Channel]]:
    """One channel to each replica."""
    channels = [connect(f"127.0.0.1:{replica.port}") for replica in replicas]
    try:
        yield channels
    finally:
        for channel in channels:
            await channel.close()


async def connected(channel: grpc.aio.Channel, count: int, *, task_id: str = TASK) -> list[Peer]:
    return [await Peer().connect(channel, task_id=task_id) for _ in range(count)]
