"""Connections that are held between calls break, are given up and are shared as those of the client are."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from roundstore import redis_settings, script_connections
from roundstore.redis_settings import connect
from roundstore.script_connections import ScriptConnections
from tests.redis_process import RedisProcess

SLOW = "local sum = 0; for i = 1, 3e7 do sum = sum + i end; return ARGV[1]"


async def test_one_call_after_the_other_goes_over_one_connection(redis_client: redis.asyncio.Redis) -> None:
    connections = ScriptConnections(redis_client)
    ids = {await connections.call("CLIENT", "ID") for _ in range(5)}
    assert len(ids) == 1


async def test_calls_at_once_each_get_their_own_answer(redis_client: redis.asyncio.Redis) -> None:
    connections = ScriptConnections(redis_client)
    count = 3 * redis_settings.MAX_CONNECTIONS
    answers = await asyncio.gather(*(connections.call("ECHO", str(index)) for index in range(count)))
    assert answers == [str(index).encode() for index in range(count)]
    pool = redis_client.connection_pool
    assert len(pool._in_use_connections) <= script_connections.HELD  # the others are the client's again


async def test_a_connection_that_broke_is_replaced_before_the_caller_hears_of_it(own_redis: RedisProcess) -> None:
    async with connect(own_redis.url) as client, connect(own_redis.url) as admin:
        connections = ScriptConnections(client)
        before = await connections.call("CLIENT", "ID")
        await admin.client_kill_filter(_id=before)
        assert await connections.call("CLIENT", "ID") != before


async def test_a_redis_that_comes_back_is_found_again(own_redis: RedisProcess) -> None:
    async with connect(own_redis.url) as client:
        connections = ScriptConnections(client)
        await connections.call("SET", "key", "1")
        own_redis.kill()
        with pytest.raises(redis.exceptions.ConnectionError):
            await connections.call("GET", "key")
        own_redis.start()
        assert await connections.call("GET", "key") == b"1"


async def test_the_answer_to_a_call_that_was_given_up_is_nobody_elses(redis_client: redis.asyncio.Redis) -> None:
    connections = ScriptConnections(redis_client)
    await connections.call("PING")
    given_up = asyncio.create_task(connections.call("EVAL", SLOW, 0, "mine"))
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert await connections.call("ECHO", "other") == b"other"


async def test_an_error_of_redis_leaves_the_connection_to_the_next_call(redis_client: redis.asyncio.Redis) -> None:
    connections = ScriptConnections(redis_client)
    before = await connections.call("CLIENT", "ID")
    with pytest.raises(ResponseError):
        await connections.call("EVAL", "return redis.call('NONSENSE')", 0)
    assert await connections.call("CLIENT", "ID") == before


async def test_connections_are_closed_with_their_client(redis_client: redis.asyncio.Redis, redis_url: str) -> None:
    client = connect(redis_url)
    number = await ScriptConnections(client).call("CLIENT", "ID")
    await client.aclose()
    assert number not in {int(each["id"]) for each in await redis_client.client_list()}
