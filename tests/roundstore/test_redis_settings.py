"""Where Redis is comes from the environment, and the client is made so that no call hangs."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError

from learning.refusals import StoreUnavailable
from roundstore import redis_settings
from roundstore.redis_faults import store_faults
from roundstore.redis_settings import RedisSettings, connect


def test_without_a_setting_it_is_the_redis_of_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISCO_REDIS_URL", raising=False)
    assert RedisSettings().redis_url == "redis://127.0.0.1:6379/0"
    monkeypatch.setenv("DISCO_REDIS_URL", "")
    assert RedisSettings().redis_url == "redis://127.0.0.1:6379/0"


def test_the_url_is_read_from_the_environment_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCO_REDIS_URL", "unix:///run/redis.sock")
    settings = RedisSettings()
    assert settings.redis_url == "unix:///run/redis.sock"
    with pytest.raises(ValidationError):
        settings.redis_url = "redis://elsewhere"  # type: ignore[misc]


async def test_replies_are_bytes(redis_url: str) -> None:
    async with connect(redis_url) as client:
        await client.set("key", "value")
        assert await client.get("key") == b"value"


async def test_a_redis_that_does_not_answer_is_unavailable_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_settings, "TIMEOUT_S", 0.05)
    stuck = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await stuck.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with connect(f"redis://127.0.0.1:{port}") as client, asyncio.timeout(10):
        with pytest.raises(StoreUnavailable), store_faults():
            await client.get("key")
    stuck.set()
    server.close()
    await server.wait_closed()


async def test_more_calls_than_connections_wait_for_each_other(redis_url: str) -> None:
    async with connect(redis_url) as client:
        counts = await asyncio.gather(*(client.incr("key") for _ in range(3 * redis_settings.MAX_CONNECTIONS)))
        assert sorted(counts) == list(range(1, 3 * redis_settings.MAX_CONNECTIONS + 1))
        info = await client.info("clients")
        assert info["connected_clients"] <= redis_settings.MAX_CONNECTIONS + 10


async def test_a_task_that_is_cancelled_while_it_uses_redis_ends(redis_url: str) -> None:
    async with connect(redis_url) as client:

        async def use_redis() -> None:
            while True:
                await client.incr("key")

        for moment in range(200):
            task = asyncio.create_task(use_redis())
            for _ in range(moment % 40):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=5)
            assert task in done, f"cancelled {moment % 40} steps after its start, it went on"


async def test_a_redis_that_does_not_read_is_unavailable_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_settings, "TIMEOUT_S", 0.2)
    stuck = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while b"SETINFO" in await reader.read(1 << 16):
            writer.write(b"+OK\r\n" * 2)
        await stuck.wait()
        writer.close()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1)
    port = server.sockets[0].getsockname()[1]
    async with connect(f"redis://127.0.0.1:{port}") as client, asyncio.timeout(10):
        with pytest.raises(StoreUnavailable), store_faults():
            await client.set("key", bytes(64 << 20))
    stuck.set()
    server.close()
    await server.wait_closed()
