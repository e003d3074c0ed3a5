"""A TF.js model and its shards, fetched."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import pytest

from gateway.task_sources.allowed_addresses import networks
from gateway.task_sources.fetched_models import fetch_model
from gateway.task_sources.fetching import Fetcher, FetchTimes
from gateway.task_sources.given_digest import GivenDigest
from learning.refusals import DigestMismatch, InvalidModel, InvalidTask, TooLarge
from tests.gateway.task_sources.file_server import FileServer, answer
from tests.gateway.task_sources.files import SPECS, WEIGHTS, document

HERE = Fetcher(networks("127.0.0.0/8"))
GOOD = GivenDigest("sha256", hashlib.sha256(WEIGHTS).digest())
LIMIT = 1 << 20


def serving(groups: list[dict[str, object]] | None = None) -> FileServer:
    server = FileServer()
    server.pages["/m/model.json"] = json.dumps(document(groups)).encode()
    server.pages["/m/group1-shard1of1.bin"] = WEIGHTS
    return server


async def test_model_and_its_shards_are_fetched_and_checked(tmp_path: Path) -> None:
    async with serving().running() as url:
        model = await fetch_model(HERE, f"{url}/m/model.json", tmp_path, limit_bytes=LIMIT, digest=GOOD)
    assert b"".join(model.chunks()) == WEIGHTS


async def test_what_follows_the_question_mark_goes_with_every_shard(tmp_path: Path) -> None:
    server = serving([{"paths": ["a/1.bin"], "weights": SPECS}])
    server.pages["/m/model.json?key=a/b"] = server.pages["/m/model.json"]
    server.pages["/m/a/1.bin?key=a/b"] = WEIGHTS
    async with server.running() as url:
        model = await fetch_model(HERE, f"{url}/m/model.json?key=a/b", tmp_path, limit_bytes=LIMIT)
    assert b"".join(model.chunks()) == WEIGHTS


async def test_wrong_digest_is_refused(tmp_path: Path) -> None:
    async with serving().running() as url:
        with pytest.raises(DigestMismatch):
            await fetch_model(
                HERE, f"{url}/m/model.json", tmp_path, limit_bytes=LIMIT, digest=GivenDigest("sha256", bytes(32))
            )


async def test_shards_that_lead_elsewhere_are_never_asked_for(tmp_path: Path) -> None:
    for path in ("../secret", "http://169.254.169.254/", "//evil.example/w", "a?b"):
        server = serving([{"paths": [path], "weights": SPECS}])
        async with server.running() as url:
            with pytest.raises(InvalidModel, match="is no name for a shard"):
                await fetch_model(HERE, f"{url}/m/model.json", tmp_path / path.replace("/", "_"), limit_bytes=LIMIT)
        assert [request["path"] for request in server.requests] == ["/m/model.json"]


async def test_shard_may_not_be_larger_than_its_weights(tmp_path: Path) -> None:
    server = serving()
    server.pages["/m/group1-shard1of1.bin"] = WEIGHTS + b"\0"
    async with server.running() as url:
        with pytest.raises(InvalidTask) as refusal:
            await fetch_model(HERE, f"{url}/m/model.json", tmp_path, limit_bytes=LIMIT)
    assert refusal.value.variables == {
        "field": "trainingInformation.modelURL",
        "problem": f"{url}/m/group1-shard1of1.bin is larger than {len(WEIGHTS)} bytes",
    }


async def test_model_over_the_limit_is_refused_before_its_shards_are_fetched(tmp_path: Path) -> None:
    server = serving()
    async with server.running() as url:
        with pytest.raises(TooLarge):
            await fetch_model(HERE, f"{url}/m/model.json", tmp_path, limit_bytes=8)
    assert len(server.requests) == 1


async def test_trickle_ends_when_the_time_for_all_of_it_is_over(tmp_path: Path) -> None:
    server = serving()
    stop = asyncio.Event()

    async def trickle(writer: asyncio.StreamWriter) -> None:
        await answer(200, {"Content-Length": "40"})(writer)
        while not stop.is_set():
            await writer.drain()
            await asyncio.wait({asyncio.ensure_future(stop.wait())}, timeout=0.05)
            writer.write(b"x")

    server.pages["/m/group1-shard1of1.bin"] = trickle
    patient = Fetcher(networks("127.0.0.0/8"), times=FetchTimes(total_s=0.4))
    async with server.running() as url:
        with pytest.raises(InvalidTask, match=r"takes more than 0\.4 seconds"):
            await fetch_model(patient, f"{url}/m/model.json", tmp_path, limit_bytes=LIMIT)
        stop.set()
