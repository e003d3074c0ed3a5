"""The power fails: everything is killed at once, and what was written last is torn. It comes up, says so, trains on."""

from __future__ import annotations

import asyncio
import hashlib
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from disco.aggregator.v1 import aggregator_service_pb2 as messages
from disco.aggregator.v1 import aggregator_service_pb2_grpc, round_pb2

from disco_server.proof_files import Receipt
from disco_server.verification import Failed, read_entry, verify_receipt
from learning.receipts import Statement
from tests.e2e.system import System
from tests.waiting import eventually

TASK = "titanic"
LAST_S = 3.0


def weights_of(system: System, seed: int) -> bytes:
    """As many as the model has."""
    size = len(system.weights(TASK, system.record(TASK)["initial_digest"])) // 4
    return struct.pack(f"<{size}f", *(random.Random(seed).uniform(-1, 1) for _ in range(size)))


class Backend:
    """Contributes over gRPC; what it is told it keeps."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.receipts: list[round_pb2.Receipt] = []

    async def contribute(self, who: str, seed: int) -> None:
        async with grpc.aio.insecure_channel(self._system.aggregator_address) as channel:
            stub = aggregator_service_pb2_grpc.AggregatorServiceStub(channel)
            base = (await stub.GetRound(messages.GetRoundRequest(task_id=TASK))).round.number
            weights = weights_of(self._system, seed)
            header = messages.SubmitContributionRequest.Header(
                task_id=TASK, participant_id=who, round=base, sha256=hashlib.sha256(weights).digest()
            )
            requests = [
                messages.SubmitContributionRequest(header=header),
                messages.SubmitContributionRequest(weights_chunk=weights),
            ]
            answer = await stub.SubmitContribution(iter(requests), timeout=60)
            self.receipts.append(answer.receipt)

    async def join(self, who: str) -> None:
        async with grpc.aio.insecure_channel(self._system.aggregator_address) as channel:
            stub = aggregator_service_pb2_grpc.AggregatorServiceStub(channel)
            await stub.JoinTask(messages.JoinTaskRequest(task_id=TASK, participant_id=who), timeout=60)

    async def key_pem(self) -> bytes:
        status, pem = await self._system.get("receipt-key.pem")
        assert status == 200
        return pem


def cut(data: bytes) -> bytes:
    return data[: len(data) // 3]


def zeros(data: bytes) -> bytes:
    return bytes(len(data))


def young(system: System, pattern: str) -> list[Path]:
    """Files that were written in the last moments."""
    return [path for path in system.data_dir.glob(pattern) if path.stat().st_mtime > time.time() - LAST_S]


def outcome(receipt: round_pb2.Receipt, entry: bytes, pem: bytes) -> str:
    """The step at which its verification ends, for want of a proof: "leaf" where it is counted, else "lost"."""
    statement = Statement(
        task_id=receipt.task_id,
        round=receipt.round,
        participant_id=receipt.participant_id,
        digest=receipt.sha256.hex(),
        weight=receipt.weight,
        position=receipt.position,
    )
    try:
        verify_receipt(Receipt(statement, receipt.signature, receipt.key_id), read_entry(entry), None, pem=pem)
    except Failed as failed:
        return failed.step
    raise AssertionError("nothing is verified without a proof")


async def trains_on(system: System, backend: Backend, version: int) -> None:
    async def published() -> bool:
        return len(system.ledger(TASK)) >= version

    for seed, who in enumerate(("x", "y", "z")):
        await backend.contribute(who, 100 * version + seed)
    await eventually(published, 60)


@pytest.mark.parametrize("tear", [cut, zeros])
async def test_a_torn_sum_costs_what_was_in_it_by_name_and_the_round_goes_on(
    system: System, tear: Callable[[bytes], bytes]
) -> None:
    # What should happen:
    # 1. the contribution that was safe before the last second is counted, at its position
    # 2. the one whose sum is torn is named as lost, its receipt verifies as lost, and it can be sent once more
    backend = Backend(system)
    for who in ("x", "y", "z"):
        await backend.join(who)  # and the round waits for them
    await backend.contribute("a", 1)
    await asyncio.sleep(LAST_S + 0.5)  # longer than a sync takes to come: this one is safe
    await backend.contribute("b", 2)
    system.kill_everything()
    for path in young(system, f"sums/{TASK}/**/*"):
        if path.is_file():
            path.write_bytes(tear(path.read_bytes()))
    await system.start()
    await trains_on(system, backend, 1)
    entry = (system.data_dir / "tasks" / TASK / "versions" / "000000000001.json").read_bytes()
    pem = await backend.key_pem()
    assert [outcome(receipt, entry, pem) for receipt in backend.receipts[:2]] == ["leaf", "lost"]
    assert "contributions.lost" in system.output()


@pytest.mark.parametrize("tear", [cut, zeros])
@pytest.mark.parametrize("what", ["weights", "versions"])
async def test_a_torn_version_is_made_once_more_from_the_same_contributions(
    system: System, what: str, tear: Callable[[bytes], bytes]
) -> None:
    backend = Backend(system)
    await trains_on(system, backend, 1)
    before = system.ledger(TASK)
    system.kill_everything()
    for path in young(system, f"tasks/{TASK}/{what}/*"):
        if path.name.startswith("000000000001"):
            path.write_bytes(tear(path.read_bytes()))
    await system.start()
    await trains_on(system, backend, 2)
    assert system.ledger(TASK)[0] == before[0]
    assert "version.lost" in system.output()


async def test_an_append_only_file_cut_anywhere_in_the_last_second_costs_no_more_than_that(system: System) -> None:
    backend, chance = Backend(system), random.Random(7)
    await trains_on(system, backend, 1)
    await asyncio.sleep(LAST_S)
    file = system.data_dir / "redis" / "appendonly.aof"
    safe = file.stat().st_size
    await backend.contribute("b", 2)
    system.kill_everything()
    data = file.read_bytes()
    place = chance.randint(safe, len(data))
    file.write_bytes(data[:place] + bytes(len(data) - place))
    before = system.ledger(TASK)
    await system.start()
    await trains_on(system, backend, 2)
    assert system.ledger(TASK)[: len(before)] == before
