"""kill -9 of every process at random instants, under load: the whole promise, checked at the end.

`make chaos SEED=… KILLS=…` runs it for longer; a seed fixes who is killed in which order, and what
participants send, but not the instants, which hang on the machine.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from disco.aggregator.v1 import aggregator_service_pb2, round_pb2
from disco.task.v1 import policy_pb2, task_service_pb2, task_service_pb2_grpc
from google.protobuf.duration_pb2 import Duration

from tests.e2e import chaos_kills, chaos_tasks
from tests.e2e.chaos_participants import Aggregators, Backend, GatewayClients, Sent
from tests.e2e.chaos_promise import check_answers, check_contributions, check_signature, check_versions
from tests.e2e.system import System
from tests.waiting import eventually

TASK = "chaos"
STALENESS_WEIGHTS = (2, 1)
LEASE_S = 3
BACKENDS = 6
GATEWAY_CLIENTS = 2
FED_AGAIN = 6
SENT_AGAIN = 40
KILLS = int(os.environ.get("DISCO_TEST_KILLS") or 14)
SEED = int(os.environ.get("DISCO_TEST_SEED") or random.randrange(1 << 32))
DRAIN_S = 45
"""Longer than the longest back-off and a closer's lease."""
WHOLE_S = 120 + 15 * KILLS
"""A process that was killed often stays down for ten seconds each time."""


@asynccontextmanager
async def running(data_dir: Path, aggregators: int) -> AsyncIterator[tuple[System, Aggregators]]:
    system = System(
        data_dir,
        {
            "DISCO_AGGREGATORS": str(aggregators),
            "DISCO_DEFAULT_TASKS": "none",
            "DISCO_KEPT_VERSIONS": "0",  # all are computed once more in the end; a fast machine makes many
            "DISCO_PARTICIPANT_LEASE_S": str(LEASE_S),
        },
    )
    await system.start()
    first = int(system.aggregator_address.split(":")[1])
    names = [name for name in system.children() if name.startswith("aggregator")]
    assert len(names) == aggregators
    replicas = Aggregators(sorted(int(name.partition(":")[2] or first) for name in names), random.Random(SEED))
    try:
        yield system, replicas
    finally:
        await replicas.close()
        await system.stop()


@pytest.mark.timeout(WHOLE_S)
async def test_everything_is_killed_at_random_and_every_acknowledged_contribution_is_counted_once(
    tmp_path: Path,
) -> None:
    # What should happen:
    # 1. participants train on while every kind of process is killed; afterwards every round closes
    # 2. every receipt is signed, and in the ledger entry of the version that it names; sent again, it is the same
    # 3. who was answered through the gateway is counted in that answer, unless it was too late for every round before
    # 4. every version is the exact mean of its contributions
    # 5. fed again to another number of aggregators in another order, they give the same bytes
    # What should not happen:
    # - a contribution that is counted twice, or that nobody sent, or of which its sender was told that it is refused
    # - an exception that nobody foresaw
    print(f"SEED={SEED} KILLS={KILLS}")
    rng = random.Random(SEED)
    async with running(tmp_path / "data", 3) as (system, aggregators):
        await chaos_tasks.create(system, TASK, policy=policy(), weights=first_weights())
        kills = chaos_kills.plan(sorted(system.children()), KILLS, rng)
        backends = [
            Backend(TASK, f"backend-{number}", aggregators, chaos_tasks.SIZES, random.Random(SEED + number))
            for number in range(BACKENDS)
        ]
        clients = [
            GatewayClients(f"ws://127.0.0.1:{system.port}/", TASK, chaos_tasks.SHAPES, np.random.default_rng((SEED, n)))
            for n in range(GATEWAY_CLIENTS)
        ]
        await train_through(kills, system, backends=backends, clients=clients)
        backends.append(await close_what_is_open(aggregators))

        everything = [one for backend in backends for one in backend.sent]
        everything += [one for client in clients for one in client.sent]
        sent = {one.digest: one for one in everything}
        ledger = system.ledger(TASK)
        tell(kills, system, backends=backends, clients=clients, aggregators=aggregators)
        assert "Traceback" not in (system.data_dir / "system.log").read_text(errors="replace")
        assert len(sent) == len(everything)
        assert all(one.receipt or one.refusal for backend in backends for one in backend.sent)
        await check_versions(system, TASK, sizes=chaos_tasks.SIZES, sent=sent)
        check_contributions(system, TASK, sent=sent, staleness_weights=STALENESS_WEIGHTS)
        answered = [one for client in clients for one in client.answered]
        print(check_answers(system, TASK, answered, staleness_weights=STALENESS_WEIGHTS), "answered that were too late")
        await check_receipts(aggregators, backends)
        await check_served(system, aggregators, system.weights(TASK, ledger[-1]["digest"]), version=len(ledger))
        chosen = [*ledger[: FED_AGAIN // 2], *rng.sample(ledger, min(FED_AGAIN // 2, len(ledger)))]
        wanted = {
            entry["version"]: (system.weights(TASK, entry["base_digest"]), system.weights(TASK, entry["digest"]))
            for entry in chosen
        }
    async with running(tmp_path / "again", 1) as (system, aggregators):
        for number, (base, weights) in wanted.items():
            entry = ledger[number - 1]
            assert weights == await chaos_tasks.again(system, aggregators, base=base, entry=entry, sent=sent, seed=SEED)


def policy() -> policy_pb2.Policy:
    return policy_pb2.Policy(
        min_participants=2, quorum_share=1, deadline=Duration(nanos=300_000_000), staleness_weights=STALENESS_WEIGHTS
    )


def first_weights() -> bytes:
    """One tensor of weights around 1, one of small ones, whose sums have two limbs."""
    random_weights = np.random.default_rng(SEED)
    return np.concatenate([random_weights.normal(size=20), random_weights.normal(size=5) / 100]).astype("<f4").tobytes()


async def train_through(
    kills: list[chaos_kills.Kill], system: System, *, backends: list[Backend], clients: list[GatewayClients]
) -> None:
    """Load and kills at once; returns when all processes are there again and backends have all their answers."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        trained = [group.create_task(backend.run(stop)) for backend in backends]
        sockets = [group.create_task(client.run()) for client in clients]
        await chaos_kills.execute(kills, system)
        await eventually(system.is_ready, DRAIN_S)
        stop.set()
        _, waiting = await asyncio.wait(trained, timeout=DRAIN_S)
        if waiting:
            stays = await backends[0].aggregators.round(TASK)
            pytest.fail(f"participants wait for their answers, with nobody killed any more: {stays.waiting_sentence}")
        for socket in sockets:
            socket.cancel()


async def close_what_is_open(aggregators: Aggregators) -> Backend:
    """Contributes where a round waits for somebody, until nobody is there and no round has anything."""
    last = Backend(TASK, "last", aggregators, chaos_tasks.SIZES, random.Random(SEED - 1))
    over = asyncio.get_running_loop().time() + DRAIN_S
    while (open_round := await aggregators.round(TASK)).contributions or open_round.participants:
        assert asyncio.get_running_loop().time() < over, open_round.waiting_sentence
        if open_round.waiting == round_pb2.Round.WAITING_MIN_PARTICIPANTS:
            last.participant_id = f"last-{len(last.sent)}"
            await last.contribute(open_round.number)
        await asyncio.sleep(0.05)
    return last


async def check_receipts(aggregators: Aggregators, backends: list[Backend]) -> None:
    """All are signed by the one key; those of the end come again when the contribution is sent again, from anybody."""
    request = aggregator_service_pb2.GetReceiptKeyRequest()
    answer = await aggregators.any().GetReceiptKey(request, timeout=30, wait_for_ready=True)
    acknowledged = [one for backend in backends for one in backend.sent if one.receipt]
    for one in acknowledged:
        assert one.receipt is not None
        check_signature(one.receipt, answer.key)
    for one in sorted(acknowledged, key=lambda one: one.base_round)[-SENT_AGAIN:]:
        assert await backends[0].submit(one) == one.receipt


async def check_served(system: System, aggregators: Aggregators, newest: bytes, *, version: int) -> None:
    """The gateway, the task service and the aggregators serve the newest version."""
    assert await system.get(f"tasks/{TASK}/weights.bin") == (200, newest)
    async with grpc.aio.insecure_channel(system.task_service_address) as channel:
        request = task_service_pb2.DownloadModelRequest(task_id=TASK)
        parts = [part async for part in task_service_pb2_grpc.TaskServiceStub(channel).DownloadModel(request)]
    assert (parts[0].header.version, parts[0].header.weights_sha256) == (version, hashlib.sha256(newest).digest())
    assert b"".join(part.weights_chunk for part in parts) == newest
    newest_of_all = aggregator_service_pb2.ReadVersionRequest(task_id=TASK)
    pieces = [piece async for piece in aggregators.any().ReadVersion(newest_of_all, timeout=30, wait_for_ready=True)]
    assert pieces[0].header.version == version
    assert b"".join(piece.weights_chunk for piece in pieces) == newest


def tell(
    kills: list[chaos_kills.Kill],
    system: System,
    *,
    backends: list[Backend],
    clients: list[GatewayClients],
    aggregators: Aggregators,
) -> None:
    """What happened, for whoever runs this by hand."""
    sent: list[Sent] = [one for backend in backends for one in backend.sent]
    digests = [line["digest"] for entry in system.ledger(TASK) for line in entry["contributions"]]
    through_gateway = {one.digest for client in clients for one in client.sent}
    print("killed:", dict(Counter(kill.victim.partition(":")[0] for kill in kills)))
    print("versions:", len(system.ledger(TASK)), "contributions counted:", len(digests))
    print("backends:", len(sent), "sent,", sum(bool(one.refusal) for one in sent), "refused")
    answered = sum(len(client.answered) for client in clients)
    print("gateway clients:", len(through_gateway), "sent,", answered, "answered,")
    print(
        "    ", len(through_gateway & set(digests)), "counted;", sum(client.sockets_lost for client in clients), "times"
    )
    print("     no socket,", sum(client.waits_given_up for client in clients), "waits given up")
    print("failed calls:", dict(aggregators.failures))
