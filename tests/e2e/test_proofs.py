"""The promise, checked from outside: receipts over gRPC, the rest over HTTP, and a command that asks nobody."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from disco.aggregator.v1 import aggregator_service_pb2 as messages
from disco.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceStub
from disco.task.v1 import task_service_pb2 as task_messages
from disco.task.v1.policy_pb2 import Policy
from disco.task.v1.task_service_pb2_grpc import TaskServiceStub
from google.protobuf.json_format import MessageToJson

from learning.refusals import RoundStale
from rpc.channel import connect, retrying
from tests.e2e.system import ROOT, System

TASK = "titanic"
PARTICIPANTS = ("alice", "bob", "carol")


class Outside:
    """Somebody who contributes, keeps what was sent, and fetches what was published."""

    def __init__(self, system: System, folder: Path, channel: grpc.aio.Channel) -> None:
        self.system = system
        self.folder = folder
        self.stub: Any = AggregatorServiceStub(channel)
        self.contributions = folder / "contributions"
        self.contributions.mkdir()
        self.receipts: dict[tuple[str, int], Any] = {}

    async def fetch(self, path: str, name: str) -> Path:
        status, body = await self.system.get(path)
        assert status == 200, (path, status, body)
        (self.folder / name).write_bytes(body)
        return self.folder / name

    async def contribute(self, who: str, number: int, base: bytes) -> None:
        random = np.random.default_rng(abs(hash((who, number))) % 2**32)
        values = np.frombuffer(base, "<f4")
        weights = (values + random.normal(0, 0.1, values.size)).astype("<f4").tobytes()
        digest = hashlib.sha256(weights)
        (self.contributions / f"{digest.hexdigest()}.bin").write_bytes(weights)

        def parts() -> Any:
            yield messages.SubmitContributionRequest(
                header=messages.SubmitContributionRequest.Header(
                    task_id=TASK, participant_id=who, round=number, sha256=digest.digest(), sample_count=2
                )
            )
            yield messages.SubmitContributionRequest(weights_chunk=weights)

        answer = await retrying(lambda: self.stub.SubmitContribution(parts()), seconds=60)
        self.receipts[who, number] = answer.receipt

    async def play(self, number: int) -> None:
        base = (await self.fetch(f"tasks/{TASK}/versions/{number}/weights.bin", f"{number}.bin")).read_bytes()
        await asyncio.gather(*(self.contribute(who, number, base) for who in PARTICIPANTS))
        async with asyncio.timeout(60):
            async for answer in self.stub.WatchRounds(messages.WatchRoundsRequest(task_id=TASK)):
                if answer.round.number > number:
                    return

    async def proof_files(self, who: str, number: int) -> list[str]:
        """Options of `verify receipt`."""
        receipt = self.receipts[who, number]
        (self.folder / "receipt.json").write_text(MessageToJson(receipt))
        version = f"tasks/{TASK}/versions/{number + 1}"
        digest = f"digest={receipt.sha256.hex()}&participant={who}"
        return [
            str(self.folder / "receipt.json"),
            "--entry",
            str(await self.fetch(version, "entry.json")),
            "--proof",
            str(await self.fetch(f"{version}/proof?{digest}", "proof.json")),
            "--key",
            str(await self.fetch("receipt-key.pem", "key.pem")),
        ]

    async def verify(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """What the command says, as a process of its own."""
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "disco_server", "verify", *arguments, "--json"],
            cwd=ROOT,
            env=self.system.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout)


@pytest_asyncio.fixture
async def outside(tmp_path: Path) -> AsyncIterator[Outside]:
    """A running system with two aggregators, whose task closes a round with three contributions."""
    system = System(tmp_path / "data", {"DISCO_AGGREGATORS": "2", "DISCO_DEFAULT_TASKS": TASK})
    await system.start()
    try:
        async with connect(system.aggregator_address) as channel:
            somebody = Outside(system, tmp_path, channel)
            policy = Policy(min_participants=3, quorum_count=3, staleness_weights=[2, 1])
            policy.deadline.FromSeconds(600)
            await somebody.stub.ChangePolicy(messages.ChangePolicyRequest(task_id=TASK, policy=policy))
            yield somebody
    finally:
        await system.stop()


@pytest.mark.timeout(240)
async def test_every_receipt_and_every_version_can_be_checked_from_outside(outside: Outside) -> None:
    # What should happen:
    # 1. each receipt verifies against the version that counts it; each version is computed again to the bit
    # 2. a rollback keeps the receipts of the round that it ends, and the chain goes on
    # 3. a fork begins with the version that it names
    # What should not happen:
    # - anything that verifies after one byte of it was changed
    for number in range(2):
        await outside.play(number)
    for who in PARTICIPANTS:
        for number in range(2):
            code, said = await outside.verify("receipt", *await outside.proof_files(who, number))
            assert (code, said["verified"]) == (0, True), said
            assert said["sentence"] == (
                f"The contribution of {who} to round {number} of {TASK} is counted in version {number + 1}, once, "
                "with weight 4."
            )
    entry = await outside.fetch(f"tasks/{TASK}/versions/2", "entry.json")
    model = await outside.fetch(f"tfjs/{TASK}/model.json", "model.json")
    options = ["--entry", str(entry), "--base", str(outside.folder / "1.bin"), "--model", str(model)]
    code, said = await outside.verify("version", *options, "--contributions", str(outside.contributions))
    assert (code, said["sentence"]) == (
        0,
        f"Version 2 of {TASK} is the exact mean of its 3 contributions, to the bit.",
    )
    entry.write_bytes(entry.read_bytes().replace(b'"weight":4', b'"weight":6', 1))
    code, said = await outside.verify("version", *options, "--contributions", str(outside.contributions))
    assert (code, said["step"]) == (1, "total_weight")

    await outside.contribute("dave", 2, (await outside.system.get(f"tasks/{TASK}/weights.bin"))[1])
    rolled_back = await outside.stub.RollBack(messages.RollBackRequest(task_id=TASK, version=1, request_id="r1"))
    assert rolled_back.version.number == 3
    code, said = await outside.verify("receipt", *await outside.proof_files("dave", 2))
    assert (code, said["verified"]) == (0, True), said
    assert said["sentence"].endswith("is acknowledged in version 3, which restores version 1: it is in no weights.")
    assert (await outside.system.get(f"tasks/{TASK}/weights.bin"))[1] == (outside.folder / "1.bin").read_bytes()

    async with connect(outside.system.task_service_address) as channel:
        tasks: Any = TaskServiceStub(channel)
        forked = await tasks.ForkTask(
            task_messages.ForkTaskRequest(source_task_id=TASK, source_version=2, task_id="again", request_id="r1")
        )
    second = await outside.fetch(f"tasks/{TASK}/versions/2/weights.bin", "2.bin")
    assert (await outside.system.get("tasks/again/weights.bin")) == (200, second.read_bytes())
    assert forked.weights_sha256 == hashlib.sha256(second.read_bytes()).digest()


@pytest.mark.timeout(240)
async def test_the_chain_holds_though_everything_is_killed_in_between(outside: Outside) -> None:
    # What should happen: every acknowledged contribution is proved, and the entries are one chain.
    # What should not happen: another key, another receipt for the same contribution, a version twice.
    await outside.play(0)
    key = (await outside.fetch("receipt-key.pem", "key.pem")).read_bytes()
    rolling = asyncio.create_task(
        retrying(
            lambda: outside.stub.RollBack(
                messages.RollBackRequest(task_id=TASK, version=0, request_id="r1"), timeout=30
            ),
            seconds=90,
        )
    )
    await outside.system.kill("aggregator")
    rolled_back = await rolling
    restored = rolled_back.version.number
    await outside.play(restored)
    before = dict(outside.receipts)
    outside.system.kill_everything()
    await outside.system.start()
    assert (await outside.fetch("receipt-key.pem", "key.pem")).read_bytes() == key
    again = await retrying(
        lambda: outside.stub.RollBack(messages.RollBackRequest(task_id=TASK, version=0, request_id="r1")), seconds=60
    )
    assert again.version.number == restored
    for who, number in before:
        code, said = await outside.verify("receipt", *await outside.proof_files(who, number))
        assert (code, said["verified"]) == (0, True), said
    with pytest.raises(RoundStale):
        await outside.contribute("late", 0, (outside.folder / "0.bin").read_bytes())
    newest = json.loads((await outside.system.get(f"tasks/{TASK}/versions"))[1])["versions"][0]["number"]
    assert newest == restored + 1
    folder = outside.folder / "chain"
    folder.mkdir()
    for number in range(newest + 1):
        await outside.fetch(f"tasks/{TASK}/versions/{number}", f"chain/{number}.json")
    code, said = await outside.verify("chain", str(folder))
    assert (code, said["sentence"]) == (
        0,
        f"The entries of versions 0 to {newest} are a chain, each with the root of its contributions.",
    )
