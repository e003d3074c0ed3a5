"""docker-compose.yml with a real engine: `make test-compose`. An engine is nothing that a test can install."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
import pytest_asyncio
from disco.aggregator.v1 import aggregator_service_pb2 as messages
from disco.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceStub

from tests.e2e.composed_system import ROOT, ComposedSystem
from tests.waiting import eventually

WEIGHTS = bytes(4 * 2410)
SPOOLED = "import tempfile; print(tempfile.gettempdir())"
"""Where Python, as the container's user, can and does write what it spools."""


@pytest_asyncio.fixture
async def system() -> AsyncIterator[ComposedSystem]:
    """Three aggregators and one of everything else, healthy, on empty volumes."""
    system = ComposedSystem(f"disco-test-{os.getpid()}")
    try:
        await system.up(aggregators=3)
        yield system
    finally:
        system.remove()


async def train(system: ComposedSystem, until: int) -> None:
    """Two participants, each a process on this machine, make versions together."""
    target = system.aggregator_target()
    command = [sys.executable, "-m", "examples.participant", "--address", target, "--until", str(until)]
    participants = [
        await asyncio.create_subprocess_exec(*command, "--name", name, "--share", share, cwd=ROOT)
        for name, share in (("anna", "0/2"), ("bert", "1/2"))
    ]
    assert [await participant.wait() for participant in participants] == [0, 0]


async def newest(system: ComposedSystem) -> tuple[int, str]:
    """Number and digest of the newest version."""
    async with grpc.aio.insecure_channel(system.aggregator_target()) as channel:
        request = messages.ReadVersionRequest(task_id="digits")
        stream = AggregatorServiceStub(channel).ReadVersion(request, timeout=30, wait_for_ready=True)
        first, *chunks = [part async for part in stream]
    header, body = first.header, b"".join(part.weights_chunk for part in chunks)
    assert hashlib.sha256(body).digest() == header.sha256
    return header.version, header.sha256.hex()


async def contribute(system: ComposedSystem, version: int) -> None:
    header = messages.SubmitContributionRequest.Header(
        task_id="digits", participant_id="carl", round=version, sha256=hashlib.sha256(WEIGHTS).digest()
    )

    def parts() -> Iterator[messages.SubmitContributionRequest]:
        yield messages.SubmitContributionRequest(header=header)
        yield messages.SubmitContributionRequest(weights_chunk=WEIGHTS)

    async with grpc.aio.insecure_channel(system.aggregator_target()) as channel:
        await AggregatorServiceStub(channel).SubmitContribution(parts(), timeout=30, wait_for_ready=True)


async def contributions(system: ComposedSystem) -> int:
    async with grpc.aio.insecure_channel(system.aggregator_target()) as channel:
        answer = await AggregatorServiceStub(channel).GetRound(
            messages.GetRoundRequest(task_id="digits"), timeout=30, wait_for_ready=True
        )
    return int(answer.round.contributions)


@pytest.mark.timeout(900)
async def test_composed_system_trains_and_loses_nothing(system: ComposedSystem) -> None:
    # What should happen:
    # 1. every container is healthy, hardened, and the gateway answers
    # 2. three aggregators make two rounds together
    # 3. one more contribution is acknowledged, then every process is killed with -9, and everything is back
    # 4. after `down` and `up` everything is there again
    # What should not happen:
    # - the gateway shares a network with Redis, or anything but the gateway is reached from outside
    # - what was uploaded lies in memory, or stays where it was when its process was killed
    status, body = system.get("/tasks")
    assert (status, [task["id"] for task in json.loads(body)]) == (200, ["digits"])
    for container in system.containers():
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert container["Config"]["User"] in ("disco", "redis")
        is_gateway = container["Config"]["Labels"]["com.docker.compose.service"] == "gateway"
        assert any(container["NetworkSettings"]["Ports"].values()) == is_gateway
    for service in ("gateway", "task-service"):
        (container,) = system.containers(service)
        assert "TMPDIR=/spool" in container["Config"]["Env"]
        assert [each["Type"] for each in container["Mounts"] if each["Destination"] == "/spool"] == ["volume"]
        assert system.compose("exec", "-T", service, "python", "-c", SPOOLED).strip() == "/spool"
        system.compose("exec", "-T", service, "touch", "/spool/disco-offer-left-by-a-kill")
    (gateway,) = system.containers("gateway")
    assert list(gateway["NetworkSettings"]["Networks"]) == [f"{system.project}_calls"]

    await train(system, until=2)
    trained = await newest(system)
    assert trained[0] == 2
    await contribute(system, version=2)

    before = system.starts()
    system.kill()
    await system.restarted(before)
    assert (await newest(system), await contributions(system)) == (trained, 1)
    for service in ("gateway", "task-service"):
        assert system.compose("exec", "-T", service, "ls", "-A", "/spool").strip() == ""

    system.down()
    await system.up(aggregators=1)
    assert (await newest(system), await contributions(system)) == (trained, 1)

    async def answers() -> bool:
        return system.get("/readyz")[0] == 200

    await eventually(answers, 30)


@pytest.mark.timeout(900)
async def test_killed_redis_keeps_what_was_acknowledged_a_moment_before(system: ComposedSystem) -> None:
    before = system.starts("redis")
    await contribute(system, version=0)
    system.kill("redis")

    async def started_again() -> bool:
        return system.starts("redis") != before

    await eventually(started_again, 60)
    await system.until_healthy(7)
    assert await contributions(system) == 1
