"""How much memory an aggregator takes: for a large model, for ever more participants, for ever more rounds.

Contributions are sent as backends send them, over gRPC: ten thousand sockets would measure the machine.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import grpc

from bench import system, tasks
from bench.rows import TASK_ID, Row, Use, measure
from bench.uploads import Sending

LARGE_MODEL, LARGE_MEMBERS, LARGE_ROUNDS, LARGE_SENDERS = "25 M", 4, 3, 2
MODEL, FEW, MANY, SENDERS = "100 k", 10, 10_000, 10
FEW_ROUNDS = 40
ROUNDS = 1_000
ROUNDS_S = 60.0


@dataclass(frozen=True, slots=True)
class Peak:
    """The most that an aggregator took, in MB: in the first round, in those after it, and before it had a task.

    The first version is what a server makes of a large layer: no weight is above 1/32.
    """

    first_mb: float
    later_mb: float
    idle_mb: float
    model_mb: float


async def large_model() -> Peak:
    """Rounds on a model of 100 MB, several contributions at a time."""
    return await _rounds(LARGE_MODEL, participants=LARGE_MEMBERS, rounds=LARGE_ROUNDS, senders=LARGE_SENDERS)


async def participants(*, few_only: bool = False) -> list[tuple[int, Peak]]:
    """Rounds of ten, and a round of ten thousand."""
    found = [(FEW, await _rounds(MODEL, participants=FEW, rounds=FEW_ROUNDS, senders=SENDERS))]
    if not few_only:
        found.append((MANY, await _rounds(MODEL, participants=MANY, rounds=1, senders=SENDERS)))
    return found


async def rounds(*, number: int = ROUNDS) -> tuple[int, Use]:
    """So many rounds, one after the other: how many were made, and what the aggregator had in the middle and last."""
    row = Row("float32", 2, "10 k", 584, 1.2, None, rounds_limit=number)
    result = await measure(row, seconds=ROUNDS_S)
    return result.rounds, result.processes["aggregator"]


async def _rounds(model: str, *, participants: int, rounds: int, senders: int) -> Peak:
    with system.running() as running:
        idle = running.cost("aggregator").rss_bytes
        tasks.create(running.task_service, TASK_ID, model=model, participants=participants)
        async with grpc.aio.insecure_channel(running.aggregator) as channel:
            sending = Sending(channel, model)
            await _round(sending, participants, senders)
            first = running.cost("aggregator").peak_bytes
            running.forget_peak("aggregator")
            for _ in range(rounds - 1):
                await _round(sending, participants, senders)
            later = running.cost("aggregator").peak_bytes
    return Peak(first / 1e6, later / 1e6, idle / 1e6, 4 * tasks.size_of(model) / 1e6)


async def _round(sending: Sending, participants: int, senders: int) -> None:
    left = participants

    async def send() -> None:
        nonlocal left
        while left:
            left -= 1
            await sending.send()

    async with asyncio.TaskGroup() as group:
        for _ in range(senders):
            group.create_task(send())
    await sending.closed()
