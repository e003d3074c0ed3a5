"""The whole system with its blobs in a bucket: every process reads the same settings, and no model is on the disk."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from disco.aggregator.v1 import aggregator_service_pb2_grpc

from rpc.channel import connect
from tests.e2e.system import System
from tests.s3_process import S3Process
from tests.services.aggregator.room import Member


async def test_a_model_trained_into_a_bucket_is_there_after_everything_was_killed(
    s3_server: S3Process, tmp_path: Path
) -> None:
    settings = {**s3_server.environment("whole/system"), "DISCO_DEFAULT_TASKS": "titanic", "DISCO_AGGREGATORS": "2"}
    system = System(tmp_path / "data", settings)
    await system.start()
    try:
        async with connect(system.aggregator_address) as channel:
            member = Member(None, aggregator_service_pb2_grpc.AggregatorServiceStub(channel), asyncio.Event())  # type: ignore[arg-type]
            for who in ("ada", "emmy"):
                await member.join(who)
            _, base = await member.version()
            await asyncio.gather(*(member.submit(who, base, chunk=1 << 20) for who in ("ada", "emmy")))
            await member.reaches(1)
            trained = await member.version()
        model = await system.get("tfjs/titanic/weights.bin")
        assert model == (200, trained[1])
        assert not {"tasks", "sums"} & {path.name for path in system.data_dir.iterdir()}
        system.kill_everything()

        await system.start()
        assert [task["id"] for task in json.loads((await system.get("tasks"))[1])] == ["titanic"]
        assert await system.get("tfjs/titanic/weights.bin") == model
        async with connect(system.aggregator_address) as channel:
            member = Member(None, aggregator_service_pb2_grpc.AggregatorServiceStub(channel), asyncio.Event())  # type: ignore[arg-type]
            assert await member.version() == trained
        assert await system.stop() == 0
    finally:
        system.kill_everything()
