"""Two real processes on one Redis and one directory; one of them is killed while participants contribute."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from disco.aggregator.v1 import aggregator_service_pb2_grpc, round_pb2

from blobstore import ledger, records
from blobstore.directory import DirectoryBlobStore
from learning.policy import Policy
from learning.refusals import StoreUnavailable
from roundstore.redis_settings import connect as connect_redis
from roundstore.redis_store import RedisRoundStore
from rpc.channel import connect, retrying
from rpc.health import is_serving
from tests.redis_process import RedisProcess
from tests.services.aggregator.room import BASE, TASK, Member, Room, exact_mean, octets, weights_of
from tests.waiting import eventually

ROOT = Path(__file__).parents[3]
PARTICIPANTS, ROUNDS, KILLED_IN = 24, 3, 1
POLICY = Policy(
    min_participants=PARTICIPANTS, quorum_share=None, quorum_count=PARTICIPANTS, deadline_s=600, staleness_weights=(1,)
)


class Process:
    """`python -m services.aggregator` on a port of its own."""

    def __init__(self, redis_url: str, data_dir: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DISCO_")}
        environment |= {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen'}",
            "DISCO_REDIS_URL": redis_url,
            "DISCO_DATA_DIR": str(data_dir),
            "DISCO_AGGREGATOR_PORT": str(self.port),
            "DISCO_AGGREGATOR_METRICS_PORT": "0",
            "DISCO_LOG_FORMAT": "json",
        }
        self._running = subprocess.Popen([sys.executable, "-m", "services.aggregator"], cwd=ROOT, env=environment)

    async def serves(self) -> bool:
        assert self._running.poll() is None, "the aggregator ended"
        return await is_serving(f"127.0.0.1:{self.port}", service="disco.aggregator.v1.AggregatorService")

    def kill(self) -> None:
        self._running.kill()
        self._running.wait()

    async def end(self) -> int:
        """Asks it to stop, as an operator does; its exit code."""
        if self._running.poll() is None:
            self._running.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self._running.wait, 30)


@asynccontextmanager
async def caller(process: Process) -> AsyncIterator[Member]:
    async with connect(f"127.0.0.1:{process.port}") as channel:
        yield Member(None, aggregator_service_pb2_grpc.AggregatorServiceStub(channel), asyncio.Event())  # type: ignore[arg-type]


async def contribute(members: Sequence[Member], who: str, weights: bytes, number: int) -> round_pb2.Receipt:
    """Repeats a call that fails, on the next replica each time."""
    replicas = itertools.cycle(members)
    return await retrying(lambda: next(replicas).submit(who, weights, round=number), seconds=30)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kill", [False, True])
async def test_versions_are_the_same_bytes_though_an_aggregator_is_killed(
    own_redis: RedisProcess, tmp_path: Path, kill: bool
) -> None:
    processes = [Process(own_redis.url, tmp_path) for _ in range(2)]
    try:
        async with (
            connect_redis(own_redis.url) as redis,
            DirectoryBlobStore(tmp_path) as blobs,
            caller(processes[0]) as doomed,
            caller(processes[1]) as survivor,
        ):
            await Room(RedisRoundStore(redis), blobs).add_task(POLICY)
            for process in processes:
                await eventually(process.serves, 30)
            base = octets(BASE)
            for number in range(ROUNDS):
                contributions = {f"p{seed}": weights_of(100 * number + seed) for seed in range(PARTICIPANTS)}
                contributing = {
                    who: asyncio.create_task(
                        contribute([doomed, survivor][:: 1 if index % 2 else -1], who, weights, number)
                    )
                    for index, (who, weights) in enumerate(contributions.items())
                }
                if kill and number == KILLED_IN:
                    # Some are acknowledged, others are on their way.
                    await asyncio.wait(contributing.values(), return_when=asyncio.FIRST_COMPLETED)
                    processes[0].kill()
                receipts = {who: await task for who, task in contributing.items()}
                await survivor.reaches(number + 1)
                base = exact_mean(base, [(weights, 1) for weights in contributions.values()])
                assert await survivor.version() == (number + 1, base)
                entry = await records.read_ledger_entry(blobs, TASK, number + 1)
                counted = {line.participant_id: line.position for line in entry.contributions}
                assert len(entry.contributions) == PARTICIPANTS
                assert counted == {who: receipt.position for who, receipt in receipts.items()}
                before = await records.read_entry_bytes(blobs, TASK, number)
                assert entry == ledger.with_root(entry)
                assert entry.previous == ledger.digest_of_entry(before)
            if kill:
                with pytest.raises(StoreUnavailable):
                    await doomed.round()
        assert [await process.end() for process in processes] == [-signal.SIGKILL if kill else 0, 0]
    finally:
        for process in processes:
            process.kill()
