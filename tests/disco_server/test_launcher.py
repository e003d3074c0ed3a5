"""The launcher with the real processes: as a user starts it, kills parts of it, and stops it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
import redis
from disco.aggregator.v1 import aggregator_service_pb2 as messages
from disco.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceStub

from disco_server import launcher
from disco_server.cannot_start import CannotStart
from disco_server.settings import LauncherSettings
from rpc.health import is_serving
from tests.disco_server.recorded_screen import RecordedScreen
from tests.e2e.system import ROOT, System
from tests.waiting import eventually

PORTS = [name for name in LauncherSettings.model_fields if name.endswith("_port")]
WEIGHTS = bytes(4 * 2410)


@pytest_asyncio.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    """A system with one task, not started yet; its temporary files are the test's."""
    (tmp_path / "tmp").mkdir()
    system = System(tmp_path / "data", {"DISCO_DEFAULT_TASKS": "digits", "TMPDIR": str(tmp_path / "tmp")})
    yield system
    if system.log is not None and system.process.poll() is None:
        await system.stop()


def command(system: System, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs a launcher that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "disco_server", *arguments],
        cwd=ROOT,
        env={**system.environment, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def sentences(system: System) -> list[str]:
    """What the launcher itself said."""
    return re.findall(r"^disco +│ (.+)$", system.output(), re.MULTILINE)


def is_gone(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    return False


async def contribute(system: System, participant: str) -> None:
    """One contribution to round 0 of the task; it takes two to close it."""
    header = messages.SubmitContributionRequest.Header(
        task_id="digits", participant_id=participant, round=0, sha256=hashlib.sha256(WEIGHTS).digest()
    )

    def parts() -> Iterator[messages.SubmitContributionRequest]:
        yield messages.SubmitContributionRequest(header=header)
        yield messages.SubmitContributionRequest(weights_chunk=WEIGHTS)

    async with grpc.aio.insecure_channel(system.aggregator_address) as channel:
        await AggregatorServiceStub(channel).SubmitContribution(parts(), timeout=20, wait_for_ready=True)


async def contributions(system: System) -> int:
    request = messages.GetRoundRequest(task_id="digits")
    async with grpc.aio.insecure_channel(system.aggregator_address) as channel:
        answer = await AggregatorServiceStub(channel).GetRound(request, timeout=20, wait_for_ready=True)
    return int(answer.round.contributions)


async def test_system_starts_shows_its_tasks_and_ends_in_order(system: System, tmp_path: Path) -> None:
    await system.start()

    async def said_ready() -> bool:
        return any(sentence.startswith(f"Ready at {system.url} ") for sentence in sentences(system))

    await eventually(said_ready)
    children = system.children()
    assert set(children) == {"redis", "task_service", "aggregator", "signaling", "gateway"}
    assert re.search(rf"│ digits +│ .+ │ federated │ {re.escape(system.url)} │", system.output())
    assert await system.stop() == 0
    said = sentences(system)
    stops = said[said.index("Stopping: the gateway first, Redis last.") + 1 :]
    assert stops[0] == "Stopping gateway."
    assert set(stops[1:-2]) == {"Stopping task-service.", "Stopping aggregator.", "Stopping signaling."}
    assert stops[-2:] == ["Stopping redis.", "Stopped."]
    assert all(is_gone(process_id) for process_id in children.values())
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_sigterm_before_it_is_ready_ends_everything(system: System, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "disco_server"],
        cwd=ROOT,
        env=system.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "disco        │ Starting the services and the gateway.\n"
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert rest.endswith("disco        │ Stopping redis.\ndisco        │ Stopped.\n")
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_every_killed_process_comes_back_and_is_named(system: System) -> None:
    await system.start()
    await contribute(system, "anna")
    for name in ("gateway", "aggregator", "redis"):
        await system.kill(name)
    await eventually(system.is_ready, 60)
    assert await contributions(system) == 1
    deaths = [sentence for sentence in sentences(system) if "SIGKILL" in sentence]
    assert deaths == [
        f"{name} was ended by SIGKILL; it is started again in 0.2 s." for name in ("gateway", "aggregator", "redis")
    ]


async def test_what_was_acknowledged_is_there_after_a_stop_and_after_a_kill(system: System) -> None:
    await system.start()
    await contribute(system, "anna")
    assert await system.stop() == 0
    await system.start()
    assert await contributions(system) == 1
    children = system.children()
    assert system.log is not None
    with system.log:
        system.process.kill()
        system.process.wait()

    async def all_gone() -> bool:
        return all(is_gone(process_id) for process_id in children.values())

    await eventually(all_gone)
    await system.start()
    assert await contributions(system) == 1


async def test_several_aggregators_share_the_work(system: System) -> None:
    system.environment["DISCO_AGGREGATORS"] = "3"
    await system.start()
    environment = Path(f"/proc/{system.children()['gateway']}/environ").read_text().split("\0")
    (setting,) = [one for one in environment if one.startswith("DISCO_AGGREGATOR_ADDRESS=")]
    scheme, _, listed = setting.partition("=")[2].partition(":")
    targets = listed.split(",")
    assert (scheme, targets[0], len(set(targets))) == ("ipv4", system.aggregator_address, 3)
    assert [await is_serving(target) for target in targets] == [True, True, True]


async def test_second_launcher_on_the_same_directory_is_told_who_uses_it(system: System) -> None:
    await system.start()
    second = command(system, "--port", "0")
    assert (second.returncode, second.stderr) == (
        1,
        f"The data directory {system.data_dir} is already used by process {system.process.pid}: "
        "stop that one, or choose another directory with DISCO_DATA_DIR.\n",
    )


def test_taken_port_is_one_sentence_and_starts_nothing(system: System) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ended = command(system, "run", "--port", str(port))
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        1,
        "",
        f"Port {port} on 127.0.0.1 is taken: stop what uses it, or choose another port with DISCO_GATEWAY_PORT.\n",
    )


def test_misspelt_setting_is_refused_with_the_closest_name(system: System) -> None:
    ended = command(system, DISCO_GATEWAY_PROT="1")
    assert (ended.returncode, ended.stderr) == (
        2,
        "DISCO_GATEWAY_PROT is not a setting of Disco. Did you mean DISCO_GATEWAY_PORT?\n",
    )


def test_wrong_value_of_an_option_is_named_by_its_variable(system: System) -> None:
    ended = command(system, "--aggregators", "0")
    assert (ended.returncode, ended.stderr) == (
        2,
        "DISCO_AGGREGATORS must be a whole number between 1 and 64, not '0'.\n",
    )


def test_process_that_refuses_its_settings_ends_the_start(system: System, tmp_path: Path) -> None:
    ended = command(system, DISCO_TASK_CREATION="token")
    assert (ended.returncode, ended.stderr) == (
        1,
        "gateway did not start: it ended with exit code 2. "
        "Its last words: DISCO_TASK_CREATION=token needs DISCO_TASK_TOKEN.\n",
    )
    assert ended.stdout.endswith("disco        │ Stopping redis.\n")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_redis_that_cannot_read_its_file_is_one_sentence(system: System) -> None:
    (system.data_dir / "redis").mkdir(parents=True)
    (system.data_dir / "redis" / "appendonly.aof").write_bytes(b"this was never written by Redis\r\n")
    ended = command(system)
    assert ended.returncode == 1
    assert ended.stderr.startswith("redis did not start: it ended with exit code 1. Its last words: ")
    assert len(ended.stderr.splitlines()) == 1


async def test_redis_of_somebody_else_that_does_not_answer_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "REDIS_S", 0.1)
    settings = LauncherSettings(
        data_dir=tmp_path, redis_url="redis://user:secret@127.0.0.1:1/0", **dict.fromkeys(PORTS, 0)
    )
    with pytest.raises(CannotStart) as refused:
        await launcher.Launcher(settings, environment={}, screen=RecordedScreen()).run(asyncio.Event())
    assert str(refused.value) == (
        "The Redis at redis://127.0.0.1:1/0 (DISCO_REDIS_URL) does not answer: start it, or leave it out."
    )


async def test_redis_of_somebody_else_is_used_where_one_is_named(system: System, redis_url: str) -> None:
    system.environment["DISCO_REDIS_URL"] = redis_url
    await system.start()
    await contribute(system, "anna")
    assert "redis" not in system.children()
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys("*{digits}*") != []
