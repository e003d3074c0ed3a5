"""Tasks that are changed and deleted while a whole system runs, and after all that Redis knew is gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis.asyncio
import websockets.exceptions
from disco.aggregator.v1 import aggregator_service_pb2 as rounds
from disco.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceStub

from gateway.close_codes import CLOSE_CODES
from learning.refusals import TaskNotFound
from rpc.channel import connect
from tests.e2e.raw_clients import G22Participant
from tests.e2e.system import System
from tests.redis_process import RedisProcess
from tests.waiting import eventually

TASK = "titanic"


async def test_a_wiped_redis_finds_every_task_and_its_newest_version_again(
    tmp_path: Path, own_redis: RedisProcess
) -> None:
    system = System(tmp_path / "data", {"DISCO_REDIS_URL": own_redis.url})
    await system.start()
    try:
        async with (
            connect(system.aggregator_address) as channel,
            redis.asyncio.Redis.from_url(own_redis.url) as client,
            httpx.AsyncClient(base_url=system.url) as http,
        ):
            stub: Any = AggregatorServiceStub(channel)
            title = {"display": {"title": "Renamed"}}
            assert (await http.patch(f"tasks/{TASK}", json=title)).status_code == 200
            await stub.RollBack(rounds.RollBackRequest(task_id=TASK, version=0, request_id="r"), timeout=20)
            tasks = (await http.get("tasks")).json()
            weights = (await http.get(f"tasks/{TASK}/weights.bin")).content
            await client.flushall()
            found = (await stub.GetRound(rounds.GetRoundRequest(task_id=TASK), timeout=20)).round
            assert (found.number, found.version) == (1, 1)
            assert (await http.get("tasks")).json() == tasks
            assert "Renamed" in json.dumps(tasks)
            assert (await http.get(f"tasks/{TASK}/weights.bin")).content == weights
            assert (await http.get(f"tasks/{TASK}")).headers["etag"] == '"2"'
    finally:
        await system.stop()


async def _hear_all(member: G22Participant) -> None:
    while True:
        await member.channel.hear(60)


async def test_a_task_that_is_deleted_while_it_trains_is_gone_for_everybody_and_for_good(system: System) -> None:
    # What should happen: its participants' sockets end with the code of TASK_NOT_FOUND, or their next contribution
    # does; HTTP says 404; after a restart it is still gone, and so are its bytes.
    async with httpx.AsyncClient(base_url=system.url, timeout=30) as http:
        specs = (await http.get(f"tfjs/{TASK}/model.json")).json()["weightsManifest"][0]["weights"]
        shapes = [tuple(spec["shape"]) for spec in specs]
        async with G22Participant(system.url.replace("http", "ws"), TASK, shapes, np.random.default_rng(1)) as member:
            assert (await http.delete(f"tasks/{TASK}")).status_code == 204
            assert (await http.get(f"tasks/{TASK}")).status_code == 404
            assert (await http.get(f"tasks/{TASK}/model.json")).status_code == 404
            with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
                await _hear_all(member)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == CLOSE_CODES["TASK_NOT_FOUND"]
            assert "TASK_NOT_FOUND" in closed.value.rcvd.reason
        async with connect(system.aggregator_address) as channel:
            stub: Any = AggregatorServiceStub(channel)
            with pytest.raises(TaskNotFound):
                await stub.GetRound(rounds.GetRoundRequest(task_id=TASK), timeout=20)

    async def is_forgotten() -> bool:
        return not (system.data_dir / "tasks" / TASK).exists()

    await eventually(is_forgotten)
    await system.stop()
    await system.start()
    status, body = await system.get("tasks")
    assert status == 200
    assert TASK not in [task.get("id", task.get("taskID")) for task in json.loads(body)]
