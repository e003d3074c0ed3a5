"""Participants that live through chaos: they send the same bytes until they are answered, and write everything down.

A backend speaks gRPC to any aggregator, impatiently, sometimes to two at once; a gateway client
opens its socket again whenever it is gone. Neither uses any of the server's own code.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
from disco.aggregator.v1 import aggregator_service_pb2, aggregator_service_pb2_grpc, round_pb2
from google.rpc import error_details_pb2, status_pb2
from websockets.exceptions import WebSocketException

from tests.e2e.raw_clients import GDVParticipant, RuleBroken, Shapes

CALL_S = 5.0
IMPATIENT_S = 0.05
"""A little longer than a contribution takes: whoever gives up before then may do so while it is being committed."""
CHANNEL_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
NOBODY_KNOWS = {"", "STORE_UNAVAILABLE", "SHUTDOWN"}
"""With which reasons, or none, calls end when processes die. Whether they took effect is open; they are made again."""
Request = aggregator_service_pb2.SubmitContributionRequest


@dataclass
class Sent:
    """A contribution, and what became of it: a receipt or the reason of its refusal; neither where nobody was told."""

    weights: bytes
    participant_id: str = ""
    base_round: int = 0
    samples: int = 1
    receipt: round_pb2.Receipt | None = None
    refusal: str = ""

    @property
    def digest(self) -> str:
        return _digest(self.weights)


class Aggregators:
    """All replicas. Whoever asks, asks any of them, and another one where that one does not answer."""

    def __init__(self, ports: Sequence[int], rng: random.Random) -> None:
        self._rng = rng
        self._channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS) for port in ports]
        self._stubs = [aggregator_service_pb2_grpc.AggregatorServiceStub(channel) for channel in self._channels]
        self.failures: Counter[str] = Counter()
        """How calls failed, by status and reason."""

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    def any(self) -> aggregator_service_pb2_grpc.AggregatorServiceAsyncStub:
        return self._rng.choice(self._stubs)  # type: ignore[return-value]

    async def round(self, task_id: str) -> round_pb2.Round:
        request = aggregator_service_pb2.GetRoundRequest(task_id=task_id)
        while True:
            try:
                return (await self.any().GetRound(request, timeout=CALL_S)).round
            except grpc.aio.AioRpcError as error:
                await self.failed(error)

    async def failed(self, error: grpc.aio.AioRpcError) -> None:
        """Notes it and waits a moment before the call is made again; raises it where no death explains it."""
        self.failures[f"{error.code().name} {reason_of(error)}".strip()] += 1
        if reason_of(error) not in NOBODY_KNOWS:
            raise error
        await asyncio.sleep(self._rng.uniform(0, 0.1))


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason in the call's ErrorInfo; empty where there is none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:  # type: ignore[arg-type]
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return str(info.reason)
    return ""


@dataclass
class Backend:
    """A participant over gRPC: contributes, repeats, is late at times, and keeps every receipt."""

    task_id: str
    participant_id: str
    aggregators: Aggregators
    sizes: Sequence[int]
    rng: random.Random
    sent: list[Sent] = field(default_factory=list)

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.join()
            number = (await self.aggregators.round(self.task_id)).number
            late = self.rng.random() < 0.2
            if self.rng.random() < 0.1:
                await asyncio.sleep(self.rng.uniform(0, 1))  # trains for long, and is late or too late
            sent = await self.contribute(max(0, number - late))
            if sent.receipt is not None:
                await self._round_after(sent.receipt.round, stop)
        await self.leave()

    async def contribute(self, base_round: int) -> Sent:
        """Until there is a receipt or a refusal."""
        weights = b"".join(self._tensor(size) for size in self.sizes)
        sent = Sent(weights, self.participant_id, base_round, self.rng.randint(1, 9))
        self.sent.append(sent)
        twice = 1 + (self.rng.random() < 0.2)
        answers = await asyncio.gather(*(self.submit(sent) for _ in range(twice)))
        assert answers[0] == answers[-1], "the same contribution got two answers"
        if isinstance(answers[0], str):
            sent.refusal = answers[0]
        else:
            sent.receipt = answers[0]
        return sent

    async def submit(self, sent: Sent) -> round_pb2.Receipt | str:
        while True:
            patience = self.rng.uniform(0, IMPATIENT_S) if self.rng.random() < 0.1 else CALL_S
            try:
                call = self.aggregators.any().SubmitContribution(self._parts(sent), timeout=patience)
                return (await call).receipt
            except asyncio.CancelledError:
                # gRPC cancels the call of its own accord where its deadline comes just as it sends.
                if (ourselves := asyncio.current_task()) is None or ourselves.cancelling():
                    raise
                self.aggregators.failures["cancelled by gRPC"] += 1
            except grpc.aio.AioRpcError as error:
                if reason_of(error) == "ROUND_STALE":
                    return "ROUND_STALE"
                await self.aggregators.failed(error)

    async def join(self) -> None:
        request = aggregator_service_pb2.JoinTaskRequest(task_id=self.task_id, participant_id=self.participant_id)
        while True:
            try:
                await self.aggregators.any().JoinTask(request, timeout=CALL_S)
                return
            except grpc.aio.AioRpcError as error:
                await self.aggregators.failed(error)

    async def leave(self) -> None:
        request = aggregator_service_pb2.LeaveTaskRequest(task_id=self.task_id, participant_id=self.participant_id)
        while True:
            try:
                await self.aggregators.any().LeaveTask(request, timeout=CALL_S)
                return
            except grpc.aio.AioRpcError as error:
                await self.aggregators.failed(error)

    async def _round_after(self, number: int, stop: asyncio.Event) -> None:
        while not stop.is_set() and (await self.aggregators.round(self.task_id)).number <= number:
            await asyncio.sleep(self.rng.uniform(0, 0.1))

    async def _parts(self, sent: Sent) -> AsyncIterator[Request]:
        header = Request.Header(
            task_id=self.task_id,
            participant_id=sent.participant_id,
            round=sent.base_round,
            sha256=hashlib.sha256(sent.weights).digest(),
            sample_count=sent.samples,
        )
        yield Request(header=header)
        cut = self.rng.randrange(1, len(sent.weights))
        yield Request(weights_chunk=sent.weights[:cut])
        await asyncio.sleep(self.rng.choice((0, 0.02)))  # some are killed in the middle of it
        yield Request(weights_chunk=sent.weights[cut:])

    def _tensor(self, size: int) -> bytes:
        scale = self.rng.choice((1.0, 1e-3))
        return np.array([self.rng.gauss(0, scale) for _ in range(size)], "<f4").tobytes()


@dataclass(frozen=True)
class Answered:
    """A contribution through the gateway that was answered: digests of the version it was trained from, of itself, and
    of the version that came as the answer."""

    base: str
    digest: str
    answer: str


@dataclass
class GatewayClients:
    """One participant after another over a WebSocket of generation GDV: when its socket is gone, a new one comes."""

    url: str
    task_id: str
    shapes: Shapes
    rng: np.random.Generator
    sent: list[Sent] = field(default_factory=list)
    answered: list[Answered] = field(default_factory=list)
    sockets_lost: int = 0
    waits_given_up: int = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            client = GDVParticipant(self.url, self.task_id, self.shapes, self.rng)
            try:
                async with client:
                    await self._train(client)
            except (OSError, WebSocketException):
                self.sockets_lost += 1
            except RuleBroken as broken:
                if "nothing came" not in str(broken):
                    raise
                self.waits_given_up += 1
                await client.channel.close()
            await asyncio.sleep(float(self.rng.uniform(0, 0.2)))

    async def _train(self, client: GDVParticipant) -> None:
        while True:
            weights = client.train()
            self.sent.append(Sent(client.sent[-1]))
            base = client.adopted[-1]
            await client.exchange(weights)
            self.answered.append(Answered(*map(_digest, (base, client.sent[-1], client.adopted[-1]))))


def _digest(weights: bytes) -> str:
    return hashlib.sha256(weights).hexdigest()
