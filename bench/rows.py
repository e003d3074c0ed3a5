"""One row of the table: a number of clients of one dialect on a model of one size, for some seconds."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench import floors, system, tasks
from bench.clients import ByteArrayClient, Client, Course, Float32Client, run_clients
from bench.frames import Prepared, byte_array_contribution, float32_contribution
from bench.system import Cost, System

TASK_ID = "bench"
SLICES = 5
SAMPLE_S = 0.25
ROUNDS_LIMIT = 4000
WARM_UP_S = 5.0
"""What is not measured, at the beginning: the files of partial sums are new ones until those of the first rounds may be
used again, some three seconds later, and a new page of memory costs a virtual machine a hundred times a used one."""
DIALECTS: dict[str, type[Client]] = {"float32": Float32Client, "byte array": ByteArrayClient}


@dataclass(frozen=True, slots=True)
class Row:
    """What is measured, and what the upstream servers of 2024 did at it: rounds/s, p50 in ms, contributions used."""

    dialect: str
    clients: int
    model: str
    upstream_rounds: float
    upstream_p50_ms: float
    upstream_used: float | None
    aggregators: int = 1
    rounds_limit: int = ROUNDS_LIMIT

    @property
    def name(self) -> str:
        several = f", {self.aggregators} aggregators" if self.aggregators > 1 else ""
        return f"{self.clients} × {self.model}{several}"


ROWS = (
    Row("float32", 2, "10 k", 584, 1.2, None),
    Row("float32", 10, "10 k", 167, 5.0, None),
    Row("float32", 10, "1 M", 3.1, 319, None),
    Row("float32", 32, "1 M", 0.95, 988, None),
    Row("float32", 100, "100 k", 2.9, 331, None),
    Row("float32", 10, "1 M", 3.1, 319, None, aggregators=2),
    Row("byte array", 2, "10 k", 31, 27, 0.99),
    Row("byte array", 10, "10 k", 5.7, 121, 0.20),
    Row("byte array", 10, "1 M", 0.07, 11_800, 0.20),
    Row("byte array", 32, "1 M", 0.02, 38_600, 0.06),
    Row("byte array", 100, "100 k", 0.06, 10_500, 0.02),
)


@dataclass(frozen=True, slots=True)
class Use:
    """What one process used: of a core, for each contribution, of memory at most, and more of it with each round."""

    cpu_share: float
    cpu_ms: float
    peak_mb: float
    middle_mb: float
    """After half of the rounds."""
    last_mb: float
    growth_mb: float
    """Over the second half of the rounds."""


@dataclass(frozen=True, slots=True)
class Result:
    """Of one row."""

    row: Row
    rounds: int
    rounds_per_s: float
    """The median of several slices of the time."""
    p50_ms: float
    used: float
    floor_rounds_per_s: float
    """If all that the clients send and receive were copied once through a loopback socket, and nothing else done."""
    processes: dict[str, Use]
    driver_share: float
    """Of a core, that the clients took."""
    others_share: float
    """Of a core, that everything else on the machine took."""


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    rounds: int
    driver_s: float
    machine_s: float
    costs: dict[str, Cost]


async def measure(row: Row, *, seconds: float) -> Result:
    """Runs the row on a system of its own."""
    contribution = _prepared(row)
    with system.running(aggregators=row.aggregators) as running:
        tasks.create(running.task_service, TASK_ID, model=row.model, participants=row.clients)
        floor = floors.loopback()
        course = Course(contribution, row.rounds_limit, WARM_UP_S + seconds)
        samples: list[_Sample] = []
        sampling = asyncio.create_task(_sample(running, course, samples))
        try:
            await run_clients(DIALECTS[row.dialect], TASK_ID, course, port=running.gateway_port, clients=row.clients)
            samples.append(_sample_now(running, course))
        finally:
            sampling.cancel()
        used = tasks.counted(running.data_dir, TASK_ID) / course.contributions_sent
    samples = _warm(samples, course)
    first, last = samples[0], samples[-1]
    closed_at = [moment for moment in course.closed_at if moment > first.at]
    rounds = len(course.closed_at)
    elapsed, driver_s = last.at - first.at, last.driver_s - first.driver_s
    ours_s = driver_s + sum(last.costs[name].cpu_s - cost.cpu_s for name, cost in first.costs.items())
    return Result(
        row=row,
        rounds=rounds,
        rounds_per_s=rate(closed_at),
        p50_ms=statistics.median(course.latencies[first.rounds * row.clients :]) * 1e3,
        used=used,
        floor_rounds_per_s=floor / ((course.bytes_received + contribution.size * course.contributions_sent) / rounds),
        processes={name: _use(name, samples, row.clients) for name in samples[0].costs},
        driver_share=driver_s / elapsed,
        others_share=max(0.0, last.machine_s - first.machine_s - ours_s) / elapsed,
    )


def _prepared(row: Row) -> Prepared:
    weights = np.random.default_rng(row.clients).normal(0, 0.05, tasks.size_of(row.model)).astype("<f4")
    prepare = float32_contribution if row.dialect == "float32" else byte_array_contribution
    return prepare(weights, tasks.shapes_of(row.model))


def _warm(samples: list[_Sample], course: Course) -> list[_Sample]:
    """Those from the end of the warm-up on; all, where the rounds came to their limit before."""
    warm = [sample for sample in samples if sample.at >= course.began_at + WARM_UP_S]
    return warm if len(warm) > 1 else samples


async def _sample(running: System, course: Course, samples: list[_Sample]) -> None:
    """Looks at the processes from the first contribution on."""
    await course.began.wait()
    while True:
        samples.append(_sample_now(running, course))
        await asyncio.sleep(SAMPLE_S)


def _sample_now(running: System, course: Course) -> _Sample:
    return _Sample(
        at=time.perf_counter(),
        rounds=len(course.closed_at),
        driver_s=time.process_time(),
        machine_s=system.machine_cpu_s(),
        costs=running.costs(),
    )


def rate(moments: Sequence[float]) -> float:
    """Rounds per second, the median of up to SLICES slices: a disturbance spoils one of them."""
    step = max(1, (len(moments) - 1) // SLICES)
    starts = range(0, len(moments) - step, step)
    return statistics.median(step / (moments[start + step] - moments[start]) for start in starts)


def _use(name: str, samples: Sequence[_Sample], clients: int) -> Use:
    first, last = samples[0], samples[-1]
    middle = next(sample for sample in samples if sample.rounds >= last.rounds // 2)
    spent = last.costs[name].cpu_s - first.costs[name].cpu_s
    grown = last.costs[name].rss_bytes - middle.costs[name].rss_bytes
    return Use(
        cpu_share=spent / (last.at - first.at),
        cpu_ms=spent * 1e3 / max(1, (last.rounds - first.rounds) * clients),
        peak_mb=last.costs[name].peak_bytes / 1e6,
        middle_mb=middle.costs[name].rss_bytes / 1e6,
        last_mb=last.costs[name].rss_bytes / 1e6,
        growth_mb=grown / 1e6 / max(1, last.rounds - middle.rounds),
    )
