"""Real processes of the signaling service: started, stopped, and killed in the middle of a round."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from learning.refusals import ShuttingDown, StoreUnavailable
from roundstore.redis_peer_store import RedisPeerStore
from roundstore.redis_settings import connect as connect_redis
from rpc.channel import connect
from tests.services.signaling.peers import TASK, Peer, a_task, keep_task
from tests.waiting import eventually

ROOT = Path(__file__).parents[3]


async def start(redis_url: str, directory: Path, **settings: str) -> Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DISCO_")}
    environment |= {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
        "DISCO_REDIS_URL": redis_url,
        "DISCO_DATA_DIR": str(directory),
        "DISCO_SIGNALING_PORT": "0",
        "DISCO_SIGNALING_METRICS_PORT": "0",
        "DISCO_LOG_FORMAT": "json",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.signaling",
        cwd=ROOT,
        env=environment | settings,
        stdout=DEVNULL,
        stderr=PIPE,
    )


@asynccontextmanager
async def running(redis_url: str, directory: Path) -> AsyncIterator[tuple[Process, grpc.aio.Channel]]:
    process = await start(redis_url, directory)
    try:
        async with connect(await address_of(process)) as channel:
            yield process, channel
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def address_of(process: Process) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(30):
        async for line in process.stderr:
            event = json.loads(line)
            if event["event"] == "server.started":
                return str(event["address"])
    raise AssertionError("the process ended before it served")


def test_signaling_computes_nothing_and_imports_no_numpy() -> None:
    """It was a quarter of the time until it had imported what it needs."""
    program = "import sys, services.signaling.__main__; sys.exit('numpy' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0


async def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    process = await start("redis://127.0.0.1:1", tmp_path, DISCO_PARTICIPANT_LEASE_S="0.5")
    _, said = await process.communicate()
    assert process.returncode == 2
    assert said == b"DISCO_PARTICIPANT_LEASE_S must be a number between 1 and 3600, not '0.5'.\n"


async def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    process = await start("redis://127.0.0.1:1", tmp_path / "file")
    _, said = await process.communicate()
    assert process.returncode == 1
    assert f"Cannot read blobs in {tmp_path / 'file'}." in said.decode()


async def test_a_process_that_is_told_to_stop_ends_its_streams_and_exits(redis_url: str, tmp_path: Path) -> None:
    await keep_task(tmp_path, a_task())
    async with running(redis_url, tmp_path) as (process, channel):
        peer = await Peer().connect(channel)
        process.send_signal(signal.SIGTERM)
        await peer.over()
        assert isinstance(peer.error, ShuttingDown)
        async with asyncio.timeout(15):
            await process.communicate()
        assert process.returncode == 0
    async with connect_redis(redis_url) as redis:
        seats = (await RedisPeerStore(redis).read_round(TASK)).seats
    assert [(seat.peer_id, seat.stream) for seat in seats.values()] == [("1", None)]


async def test_a_process_that_is_killed_costs_no_seat_no_mark_no_list_and_no_signal(
    redis_url: str, tmp_path: Path
) -> None:
    # What should happen:
    # 1. six peers on two processes; all but the last are ready when the first process is killed
    # 2. the last one says it is ready, on the second process: the group is formed of all six
    # 3. the three whose streams broke come back on the second process, with their ids
    # 4. they get their list once, and after it the signals that were sent to them meanwhile, in order
    # What should not happen:
    # - a list that comes twice to anybody, or another round
    await keep_task(tmp_path, a_task(min_peers=6))
    async with running(redis_url, tmp_path) as (victim, first), running(redis_url, tmp_path) as (_, second):
        peers = [await Peer().connect(channel) for channel in (first, second) * 3]
        lost, kept = peers[::2], peers[1::2]
        ids = [peer.peer_id for peer in peers]
        assert ids == ["1", "2", "3", "4", "5", "6"]
        for peer in peers[:-1]:
            await peer.mark_ready(60.0)
        async with connect_redis(redis_url) as redis:
            store = RedisPeerStore(redis)

            async def all_but_one_are_ready() -> bool:
                return len((await store.read_round(TASK)).marks) == 5

            await eventually(all_but_one_are_ready)
        victim.kill()
        await asyncio.gather(*(peer.over() for peer in lost))
        assert [type(peer.error) for peer in lost] == [StoreUnavailable] * 3
        await kept[-1].mark_ready(60.0)
        for peer in kept:
            assert await peer.hears_list(0) == [each for each in ids if each != peer.peer_id]
            for number in range(3):
                await peer.send("1", b"%d" % number)
        for peer in lost:
            await peer.connect(second)
            assert peer.started.resumed
            assert await peer.hears_list(0) == [each for each in ids if each != peer.peer_id]
        await lost[0].hears(lambda: len(lost[0].signals) == 9)
        for sender in ("2", "4", "6"):
            assert [body for each, body in lost[0].signals if each == sender] == [b"0", b"1", b"2"]
        for peer in peers:
            await peer.mark_ready(60.0)
        for peer in peers:
            assert await peer.hears_list(1) == [each for each in ids if each != peer.peer_id]
            assert sorted(peer.lists) == [0, 1]
        assert [peer.peer_id for peer in peers] == ids
