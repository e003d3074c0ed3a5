"""A task with central privacy as anybody sees it: created, watched and ended over HTTP, by clients on sockets."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from learning.privacy import CentralPrivacy
from privacy.accountant import epsilon_of
from tests.e2e.raw_clients import GDVParticipant, RawParticipant
from tests.e2e.system import ROOT, System
from tests.gateway.test_http_tasks import TASK, artifacts

PRIVACY = {"clipping_norm": 0.5, "noise_multiplier": 2.0, "delta": 1e-5, "epsilon_budget": 3.0}
EPSILON = [epsilon_of(CentralPrivacy(**PRIVACY), versions) for versions in range(4)]
SHAPES = ((2, 2), (2,))

assert EPSILON[2] < 3.0 < EPSILON[3], "two versions fit the budget"


def document(**privacy: float) -> dict[str, Any]:
    training = {**TASK["trainingInformation"], "scheme": "federated", "tensorBackend": "tfjs", "minNbOfParticipants": 2}
    task = {"id": "private", "displayInformation": TASK["displayInformation"], "trainingInformation": training}
    return {**task, "aggregation": {"rule": "mean", "privacy": {**PRIVACY, **privacy}}}


async def create(system: System, task: dict[str, Any]) -> tuple[int, str]:
    body = json.dumps({"task": task, "model": list(artifacts(1.0)), "weights": []}).encode()
    request = urllib.request.Request(system.url + "tasks", data=body, headers={"Content-Type": "application/json"})

    def post() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()

    return await asyncio.to_thread(post)


async def told(system: System, path: str) -> Any:
    status, body = await system.get(path)
    assert status == 200, body
    return json.loads(body)


async def train(participants: list[RawParticipant]) -> None:
    await asyncio.gather(*(participant.run(1) for participant in participants))


async def test_everybody_sees_what_is_spent_and_why_the_task_stops(system: System, tmp_path: Path) -> None:
    code, answer = await create(system, document(epsilon_budget=0.5))
    assert (code, json.loads(answer)["field"]) == (400, "aggregation.privacy.epsilon_budget")
    assert await create(system, document()) == (200, "Successful task upload")

    (listed,) = [task for task in await told(system, "tasks") if task.get("id") == "private"]
    assert listed["aggregation"] == {"rule": "mean", "privacy": PRIVACY}
    before = await told(system, "tasks/private/round")
    assert before["privacy"] == {**PRIVACY, "noisy_versions": 0, "epsilon": 0.0, "next_epsilon": EPSILON[1]}

    people = [
        GDVParticipant(system.url.replace("http", "ws"), "private", SHAPES, np.random.default_rng(seed))
        for seed in (1, 2)
    ]
    async with people[0], people[1]:
        for number in (1, 2):
            await train(list(people))
            now = await told(system, "tasks/private/round")
            expected = {"noisy_versions": number, "epsilon": EPSILON[number], "next_epsilon": EPSILON[number + 1]}
            assert (now["number"], now["privacy"]) == (number, {**PRIVACY, **expected})
        assert now["waiting"] == "privacy_budget"
        assert "takes no more contributions" in now["waiting_sentence"]
        assert f"ε = {EPSILON[2]:g}" in now["waiting_sentence"]
        # Whoever contributes all the same is answered with the newest version, at once, instead of waiting for ever.
        newest = people[0].adopted[-1]
        await asyncio.wait_for(train([people[0]]), 30)
        assert people[0].adopted[-1] == newest

    versions = (await told(system, "tasks/private/versions"))["versions"]
    assert [version["privacy"] and version["privacy"]["epsilon"] for version in versions] == [
        EPSILON[2],
        EPSILON[1],
        None,
    ]
    assert [entry["privacy"]["noisy_versions"] for entry in system.ledger("private")] == [1, 2]
    assert system.weights("private", system.ledger("private")[-1]["digest"]) == newest
    assert (await system.get("keys/noise.hex"))[0] == 404

    # After everything has died, it is as spent as before.
    system.kill_everything()
    await system.start()
    again = await told(system, "tasks/private/round")
    assert (again["waiting"], again["privacy"]) == (now["waiting"], now["privacy"])

    # And what was published is computed again from its files, by the installation itself.
    folder = tmp_path / "contributions"
    folder.mkdir()
    for person in people:
        for digest, weights in zip(person.digests, person.sent, strict=True):
            (folder / f"{digest}.bin").write_bytes(weights)
    files = {
        "--entry": "tasks/private/versions/2",
        "--base": "tasks/private/versions/1/weights.bin",
        "--model": "tfjs/private/model.json",
    }
    words = ["--contributions", str(folder), "--noise-secret", str(system.data_dir / "keys" / "noise.hex")]
    for option, path in files.items():
        status, body = await system.get(path)
        assert status == 200
        (tmp_path / option).write_bytes(body)
        words += [option, str(tmp_path / option)]
    command = [sys.executable, "-m", "disco_server", "verify", "version", *words]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "with the noise of this secret, to the bit." in said.stdout
