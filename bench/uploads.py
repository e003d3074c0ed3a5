"""Contributions as backends send them: SubmitContribution, several at a time, from the socket to the receipt.

A receipt means durable and folded. What counts is the aggregator's own CPU time: the
sender shares the cores with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import numpy as np
from disco.aggregator.v1.aggregator_service_pb2 import (
    GetRoundRequest,
    SubmitContributionRequest,
    WatchRoundsRequest,
)
from disco.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceStub

from bench import floors, system, tasks
from bench.rows import TASK_ID
from rpc.chunks import chunks_of

if TYPE_CHECKING:
    from disco.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceAsyncStub

SENDERS = 8
MANY = 100_000
MODEL = "1 M"
CALL_S = 60.0


@dataclass(frozen=True, slots=True)
class Uploads:
    """What was measured. Bytes per second of weights; `per_core` is of the aggregator's CPU time."""

    contributions: int
    per_s: float
    per_core: float
    p50_ms: float
    used: float
    floor_per_s: float


async def measure(*, seconds: float) -> Uploads:
    """Keeps SENDERS uploads under way, on a system of its own, each of another participant; the round stays open."""
    with system.running() as running:
        tasks.create(running.task_service, TASK_ID, model=MODEL, participants=MANY)
        floor = floors.loopback()
        async with grpc.aio.insecure_channel(running.aggregator) as channel:
            sending = Sending(channel, MODEL)
            await sending.send()
            sending.seconds.clear()
            before, started = running.cost("aggregator").cpu_s, time.perf_counter()
            await asyncio.gather(*(sending.until(started + seconds) for _ in range(SENDERS)))
            elapsed = time.perf_counter() - started
            spent = running.cost("aggregator").cpu_s - before
            counted = await sending.counted()
    sent = len(sending.seconds) * len(sending.weights)
    return Uploads(
        contributions=len(sending.seconds),
        per_s=sent / elapsed,
        per_core=sent / spent,
        p50_ms=1e3 * statistics.median(sending.seconds),
        used=counted / sending.participants,
        floor_per_s=floor,
    )


class Sending:
    """Sends the same weights in the name of ever new participants; the messages are made before it is measured."""

    def __init__(self, channel: grpc.aio.Channel, model: str) -> None:
        self._stub: AggregatorServiceAsyncStub = AggregatorServiceStub(channel)
        self.weights = np.random.default_rng(1).normal(0, 0.05, tasks.size_of(model)).astype("<f4").tobytes()
        self._digest = hashlib.sha256(self.weights).digest()
        self._chunks = [SubmitContributionRequest(weights_chunk=chunk) for chunk in chunks_of(self.weights)]
        self._round = 0
        self.participants = 0
        self.seconds: list[float] = []

    async def until(self, moment: float) -> None:
        while time.perf_counter() < moment:
            await self.send()

    async def send(self) -> None:
        """Contributes once; returns with the receipt."""
        self.participants += 1
        header = SubmitContributionRequest.Header(
            task_id=TASK_ID,
            participant_id=f"sender-{self.participants}",
            round=self._round,
            sha256=self._digest,
        )
        started = time.perf_counter()
        requests = iter([SubmitContributionRequest(header=header), *self._chunks])
        await self._stub.SubmitContribution(requests, timeout=CALL_S)
        self.seconds.append(time.perf_counter() - started)

    async def counted(self) -> int:
        """Contributions in the open round."""
        answer = await self._stub.GetRound(GetRoundRequest(task_id=TASK_ID), timeout=CALL_S)
        return answer.round.contributions

    async def closed(self) -> None:
        """Returns when the round is over; the next contributions are for the one after it."""
        async for answer in self._stub.WatchRounds(WatchRoundsRequest(task_id=TASK_ID), timeout=CALL_S):
            if answer.round.number > self._round:
                self._round = answer.round.number
                return
