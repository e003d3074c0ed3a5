"""The three services as recorders: real gRPC on a loopback port, remembering what was asked, answering from memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from disco.aggregator.v1 import aggregator_service_pb2 as agg
from disco.aggregator.v1 import aggregator_service_pb2_grpc as agg_grpc
from disco.aggregator.v1.round_pb2 import Receipt, ReceiptKey, Round
from disco.aggregator.v1.version_pb2 import Proof, Version
from disco.signaling.v1 import signaling_service_pb2 as sig
from disco.signaling.v1 import signaling_service_pb2_grpc as sig_grpc
from disco.task.v1 import task_service_pb2 as tasks
from disco.task.v1 import task_service_pb2_grpc as tasks_grpc
from disco.task.v1.task_pb2 import Model, WeightSpec
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from learning.refusals import (
    DiscoError,
    NotHandedOver,
    NotInVersion,
    StoreUnavailable,
    TaskAlreadyExists,
    TaskNotFound,
    VersionNotFound,
    WrongScheme,
)
from learning.task import DataKind, DisplayInformation, Scheme, Task, TrainingInformation
from rpc.handover import Handover
from rpc.interceptors import CallInterceptor
from rpc.metrics import CallMetrics
from rpc.status import to_rich_status
from rpc.task_messages import task_to_proto

SHAPES = ((2, 2), (2,))
TOPOLOGY = (
    b'{"class_name":"Sequential","config":{"name":"s","layers":[{"class_name":"Dense","config":'
    b'{"name":"d","units":2,"batch_input_shape":[null,2],"dtype":"float32"}}]},'
    b'"keras_version":"tfjs-layers 4.20.0","backend":"tensor_flow.js"}'
)
CHUNK = 1 << 20


def a_task(task_id: str, scheme: Scheme = Scheme.FEDERATED) -> Task:
    return Task(
        task_id=task_id,  # type: ignore[arg-type]
        scheme=scheme,
        data_kind=DataKind.TABULAR,
        display=DisplayInformation(title=f"Task {task_id}"),
        training=TrainingInformation(epochs=2, batch_size=4, input_columns=("a", "b"), output_columns=("c",)),
    )


def a_model(shapes: tuple[tuple[int, ...], ...] = SHAPES) -> Model:
    names = [f"d/w{index}" for index in range(len(shapes))]
    return Model(
        kind=Model.KIND_TFJS,
        topology_json=TOPOLOGY,
        weight_specs=[WeightSpec(name=name, shape=shape) for name, shape in zip(names, shapes, strict=True)],
        training_config_json=b'{"loss":"meanSquaredError","metrics":[],"optimizer_config":{"class_name":"SGD","config":{}}}',
    )


def weights_of(value: float, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> bytes:
    return np.full(sum(int(np.prod(shape)) for shape in shapes), value, "<f4").tobytes()


@dataclass
class Stored:
    task: Task
    model: Model
    versions: list[bytes]


@dataclass
class Store:
    """What the recorders share."""

    tasks: dict[str, Stored] = field(default_factory=dict)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def add(
        self,
        task_id: str,
        scheme: Scheme = Scheme.FEDERATED,
        *,
        version: int = 0,
        shapes: tuple[tuple[int, ...], ...] = SHAPES,
    ) -> None:
        versions = [weights_of(number, shapes) for number in range(version + 1)]
        self.tasks[task_id] = Stored(a_task(task_id, scheme), a_model(shapes), versions)

    def find(self, task_id: str) -> Stored:
        if task_id not in self.tasks:
            raise TaskNotFound(task_id=task_id)
        return self.tasks[task_id]


def chunks(weights: bytes) -> list[bytes]:
    return [weights[start : start + CHUNK] for start in range(0, len(weights), CHUNK)]


class TaskRecorder(tasks_grpc.TaskServiceServicer):
    def __init__(self, store: Store) -> None:
        self._store = store
        self.created: list[tuple[tasks.CreateTaskRequest.Header, bytes]] = []
        self.downloads = 0
        self.looked_up = 0

    async def ListTasks(self, request: Any, context: Any) -> Any:  # noqa: N802
        found = [task_to_proto(self._store.tasks[name].task) for name in sorted(self._store.tasks)]
        return tasks.ListTasksResponse(tasks=found)

    async def GetTask(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.looked_up += 1
        stored = self._store.find(request.task_id)
        return tasks.GetTaskResponse(task=task_to_proto(stored.task), model=stored.model)

    async def CreateTask(self, requests: Any, context: Any) -> Any:  # noqa: N802
        header, body = None, b""
        async for request in requests:
            if request.WhichOneof("part") == "header":
                header = request.header
            else:
                body += request.weights_chunk
        assert header is not None
        if header.task.task_id in self._store.tasks:
            raise TaskAlreadyExists(task_id=header.task.task_id)
        self.created.append((header, body))
        self._store.add(header.task.task_id)
        return tasks.CreateTaskResponse(task=header.task, weights_sha256=hashlib.sha256(body).digest())

    async def DownloadModel(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        stored = self._store.find(request.task_id)
        self.downloads += 1
        version = request.version if request.HasField("version") else len(stored.versions) - 1
        weights = stored.versions[version]
        yield tasks.DownloadModelResponse(
            header=tasks.DownloadModelResponse.Header(
                model=stored.model,
                version=version,
                weights_size=len(weights),
                weights_sha256=hashlib.sha256(weights).digest(),
            )
        )
        for chunk in chunks(weights):
            yield tasks.DownloadModelResponse(weights_chunk=chunk)


class AggregatorRecorder(agg_grpc.AggregatorServiceServicer):
    """Closes a round by hand: `publish`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.present: dict[str, set[str]] = {}
        self.left: list[str] = []
        self.connections: list[str] = []
        """Through whom participants joined and left, in turn."""
        self.renewals = 0
        self.contributions: list[tuple[agg.SubmitContributionRequest.Header, bytes]] = []
        self.metadata: dict[tuple[str, str], dict[str, str]] = {}
        self.noted: list[agg.NoteRefusalRequest] = []
        self.may_note = asyncio.Event()
        self.may_note.set()
        self.reads = 0
        self.handovers_asked: list[bool] = []
        """Whether each reader of a version takes it in a file."""
        self.brings_versions = False
        self.watched: list[agg.WatchRoundsRequest] = []
        self.revision = 0
        self.entry = b'{"version":1,"digest":"d1"}'
        self.entry_breaks = False
        self.handover: Handover | None = None
        """Where it takes and hands over weights in files; None: it is on another machine."""
        self.taken_from_files = 0
        self.bundles: list[tuple[str, int]] = []
        """The task of each call that handed contributions over, and how many."""
        self.refused: dict[str, list[DiscoError]] = {}
        """What a participant is told instead of a receipt, the last one first."""
        self.outcomes_at_most: int | None = None
        self.streamed = 0
        self.submitting = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def publish(self, task_id: str, weights: bytes) -> None:
        self._store.tasks[task_id].versions.append(weights)
        await self.change()

    async def change(self) -> None:
        self.revision += 1
        async with self._store.changed:
            self._store.changed.notify_all()

    def round(self, task_id: str) -> Round:
        number = len(self._store.find(task_id).versions) - 1
        return Round(
            task_id=task_id,
            number=number,
            version=number,
            revision=self.revision,
            state=Round.STATE_COLLECTING,
            participants=len(self.present.get(task_id, ())),
            contributions_ever=len(self.contributions),
        )

    async def JoinTask(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._store.find(request.task_id)
        self.present.setdefault(request.task_id, set()).add(request.participant_id)
        self.connections.append(request.connection_id)
        await self.change()
        answer = agg.JoinTaskResponse(round=self.round(request.task_id))
        answer.lease.FromSeconds(30)
        return answer

    async def RenewLeases(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.renewals += 1
        answer = agg.RenewLeasesResponse()
        answer.lease.FromSeconds(30)
        return answer

    async def LeaveTask(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.present[request.task_id].discard(request.participant_id)
        self.left.append(request.participant_id)
        self.connections.append(request.connection_id)
        await self.change()
        return agg.LeaveTaskResponse(round=self.round(request.task_id))

    async def GetRound(self, request: Any, context: Any) -> Any:  # noqa: N802
        scheme = self._store.find(request.task_id).task.scheme
        if scheme is not Scheme.FEDERATED:
            raise WrongScheme(task_id=request.task_id, scheme=scheme.value)
        return agg.GetRoundResponse(round=self.round(request.task_id))

    async def NoteRefusal(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.may_note.wait()
        self.noted.append(request)
        return agg.NoteRefusalResponse()

    async def ListRefusals(self, request: Any, context: Any) -> Any:  # noqa: N802
        first = int(request.page_token.partition("-")[0] or 3)
        numbers = range(first, max(first - (request.page_size or 20), 0), -1)
        return agg.ListRefusalsResponse(
            refusals=[
                agg.RefusedContribution(
                    participant_id="alice",
                    round=number,
                    reason="ROUND_STALE",
                    sentence="Round 0 is over.",
                    sha256=bytes(32),
                    refuse_time=Timestamp(seconds=1_763_686_800),
                )
                for number in numbers
            ],
            next_page_token=f"{numbers[-1] - 1}-0" if numbers[-1] > 1 else "",
        )

    async def WatchRounds(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.watched.append(request)
        while True:
            async with self._store.changed:
                seen = self.revision
                snapshot = self.round(request.task_id)
            message = agg.WatchRoundsResponse(round=snapshot)
            if request.takes_versions and self.brings_versions:
                message.new_version.CopyFrom(self.new_version(request.task_id, snapshot.version))
            yield message
            async with self._store.changed:
                await self._store.changed.wait_for(lambda seen=seen: self.revision != seen)  # type: ignore[misc]

    async def SubmitContribution(self, requests: Any, context: Any) -> Any:  # noqa: N802
        header, body = None, bytearray()
        async for request in requests:
            if request.WhichOneof("part") == "header":
                header = request.header
            else:
                body += request.weights_chunk
        assert header is not None
        self.streamed += 1
        self.submitting.set()
        await self.may_answer.wait()
        self.contributions.append((header, bytes(body)))
        return agg.SubmitContributionResponse(receipt=Receipt(task_id=header.task_id, round=header.round))

    async def HandOverContributions(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.bundles.append((request.task_id, len(request.contributions)))
        self.submitting.set()
        await self.may_answer.wait()
        outcomes = [self._handed_over(request.task_id, each) for each in request.contributions]
        return agg.HandOverContributionsResponse(outcomes=outcomes[: self.outcomes_at_most])

    def _handed_over(self, task_id: str, contribution: Any) -> agg.HandOverContributionsResponse.Outcome:
        try:
            receipt = self._receipt(task_id, contribution)
        except DiscoError as error:
            return agg.HandOverContributionsResponse.Outcome(refusal=to_rich_status(error).SerializeToString())
        return agg.HandOverContributionsResponse.Outcome(receipt=receipt)

    def _receipt(self, task_id: str, contribution: Any) -> Receipt:
        if refused := self.refused.get(contribution.participant_id):
            raise refused.pop()
        weights = contribution.octets
        if contribution.WhichOneof("weights") == "handed_over":
            if self.handover is None:
                raise NotHandedOver
            weights = bytes(self.handover.taken(contribution.handed_over))
            self.taken_from_files += 1
        header = agg.SubmitContributionRequest.Header(
            task_id=task_id,
            participant_id=contribution.participant_id,
            round=contribution.round,
            sha256=hashlib.sha256(weights).digest(),
            sample_count=contribution.sample_count,
        )
        self.contributions.append((header, weights))
        return Receipt(task_id=task_id, round=header.round, participant_id=header.participant_id)

    def new_version(self, task_id: str, number: int) -> agg.NewVersion:
        stored = self._store.find(task_id)
        weights = stored.versions[number]
        header = agg.ReadVersionResponse.Header(
            version=number,
            weight_specs=stored.model.weight_specs,
            weights_size=len(weights),
            sha256=hashlib.sha256(weights).digest(),
        )
        return agg.NewVersion(header=header, octets=weights)

    async def ReadVersion(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.reads += 1
        stored = self._store.find(request.task_id)
        version = request.version if request.HasField("version") else len(stored.versions) - 1
        if version >= len(stored.versions):
            raise VersionNotFound(version=version)
        self.handovers_asked.append(request.takes_handover)
        brought = self.new_version(request.task_id, version)
        weights = brought.octets
        yield agg.ReadVersionResponse(header=brought.header)
        for chunk in chunks(weights):
            yield agg.ReadVersionResponse(weights_chunk=chunk)

    async def GetReceiptKey(self, request: Any, context: Any) -> Any:  # noqa: N802
        key = ReceiptKey(key_id="ab12", public_key=bytes(32), pem="-----BEGIN PUBLIC KEY-----\n")
        return agg.GetReceiptKeyResponse(key=key)

    def version(self, task_id: str, number: int) -> Version:
        stored = self._store.find(task_id)
        if number >= len(stored.versions):
            raise VersionNotFound(version=number)
        digest = hashlib.sha256(stored.versions[number]).digest()
        return Version(task_id=task_id, number=number, rule="mean", weights_sha256=digest, kept=True)

    async def ListVersions(self, request: Any, context: Any) -> Any:  # noqa: N802
        first = int(request.page_token or len(self._store.find(request.task_id).versions) - 1)
        end = max(first - (request.page_size or 20), -1)
        versions = [self.version(request.task_id, number) for number in range(first, end, -1)]
        return agg.ListVersionsResponse(versions=versions, next_page_token=str(end) if end >= 0 else "")

    async def ReadLedgerEntry(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.version(request.task_id, request.version)
        header = agg.ReadLedgerEntryResponse.Header(
            version=request.version, entry_size=len(self.entry), sha256=hashlib.sha256(self.entry).digest()
        )
        yield agg.ReadLedgerEntryResponse(header=header)
        for part in (self.entry[:5], self.entry[5:]):
            yield agg.ReadLedgerEntryResponse(entry_chunk=part)
            if self.entry_breaks:
                raise StoreUnavailable

    async def ProveContribution(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.version(request.task_id, request.version)
        if request.sha256 != b"\xab" * 32:
            raise NotInVersion(digest=request.sha256.hex(), version=request.version)
        receipt = Receipt(
            task_id=request.task_id,
            round=request.version - 1,
            participant_id=request.participant_id or "alice",
            sha256=request.sha256,
            weight=4,
            position=1,
            signature=b"\x05" * 64,
            key_id="ab12",
        )
        path = [b"\x01" * 32, b"\x02" * 32]
        proof = Proof(
            version=request.version,
            receipt=receipt,
            leaf=b"\x03" * 32,
            index=1,
            tree_size=3,
            path=path,
            root=b"\x04" * 32,
        )
        return agg.ProveContributionResponse(proof=proof)

    async def PutMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.metadata.setdefault((request.task_id, request.key), {})[request.participant_id] = request.value
        return agg.PutMetadataResponse()

    async def GetMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        values = self.metadata.get((request.task_id, request.key), {})
        return agg.GetMetadataResponse(round=request.round, values=values)


class SignalingRecorder(sig_grpc.SignalingServiceServicer):
    """Introduces by hand: `tell(peer_id, …)`; signals are forwarded as they come."""

    def __init__(self) -> None:
        self.requests: dict[str, list[sig.ConnectRequest]] = {}
        self._streams: dict[str, asyncio.Queue[sig.ConnectResponse | None]] = {}
        self._next = 0

    async def GetPeerRound(self, request: Any, context: Any) -> Any:  # noqa: N802
        return sig.GetPeerRoundResponse(
            round=sig.PeerRound(
                task_id=request.task_id,
                number=4,
                peers_present=3,
                peers_ready=1,
                min_peers=2,
                waiting=sig.PeerRound.WAITING_READY_PEERS,
                waiting_sentence="Round 4 waits for peers to be ready: 1 of at least 2; 3 are present.",
            )
        )

    async def Connect(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        first = await anext(aiter(requests))
        peer_id = first.start_session.peer_id or str(self._next)
        self._next += not first.start_session.peer_id
        self.requests.setdefault(peer_id, []).append(first)
        stream = self._streams[peer_id] = asyncio.Queue()
        yield sig.ConnectResponse(
            session_started=sig.ConnectResponse.SessionStarted(peer_id=peer_id, session_token=f"token-{peer_id}")
        )
        listening = asyncio.create_task(self._listen(peer_id, requests))
        try:
            while (response := await stream.get()) is not None:
                yield response
        finally:
            listening.cancel()

    async def _listen(self, peer_id: str, requests: Any) -> None:
        async for request in requests:
            self.requests[peer_id].append(request)
            kind = request.WhichOneof("message")
            if kind == "send_signal" and request.send_signal.peer_id in self._streams:
                body = request.send_signal.body
                signal = sig.ConnectResponse.Signal(peer_id=peer_id, body=body)
                self._streams[request.send_signal.peer_id].put_nowait(sig.ConnectResponse(signal=signal))
            if kind == "end_session":
                self._streams[peer_id].put_nowait(None)

    def tell(self, peer_id: str, round: int, others: list[str]) -> None:
        peers = sig.ConnectResponse.PeersForRound(round=round, peer_ids=others)
        self._streams[peer_id].put_nowait(sig.ConnectResponse(peers_for_round=peers))

    def said(self, peer_id: str) -> list[str | None]:
        return [request.WhichOneof("message") for request in self.requests.get(peer_id, [])]


@dataclass
class Services:
    """All three on one port. `stop` and `start` again: the port stays, and so does what they know."""

    store: Store = field(default_factory=Store)
    port: int = 0

    def __post_init__(self) -> None:
        self.tasks = TaskRecorder(self.store)
        self.aggregator = AggregatorRecorder(self.store)
        self.signaling = SignalingRecorder()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        interceptor = CallInterceptor(CallMetrics(CollectorRegistry()))
        self._server = grpc.aio.server(interceptors=[interceptor], options=[("grpc.so_reuseport", 0)])
        tasks_grpc.add_TaskServiceServicer_to_server(self.tasks, self._server)
        agg_grpc.add_AggregatorServiceServicer_to_server(self.aggregator, self._server)
        sig_grpc.add_SignalingServiceServicer_to_server(self.signaling, self._server)
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self._server)
        await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)
