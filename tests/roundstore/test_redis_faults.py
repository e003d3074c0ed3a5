"""What of Redis' errors means "not at the moment", and what is a bug: shown by a Redis in each of these states."""

from __future__ import annotations

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from learning.refusals import StoreUnavailable
from roundstore.redis_faults import store_faults
from roundstore.redis_settings import connect
from roundstore.redis_store import RedisRoundStore
from tests.redis_process import RedisProcess
from tests.roundstore.store_contract import ALICE, TASK, contributed, opened


async def test_a_redis_that_is_down_is_unavailable() -> None:
    async with connect("unix:///nowhere/redis.sock") as client:
        with pytest.raises(StoreUnavailable), store_faults():
            await client.get("key")


async def test_a_redis_that_only_reads_is_unavailable_for_changes(own_redis: RedisProcess) -> None:
    async with connect(own_redis.url) as client:
        store = RedisRoundStore(client)
        await opened(store)
        await client.replicaof("127.0.0.1", "1")
        with pytest.raises(StoreUnavailable):
            await store.join(TASK, [ALICE], lease_until=10.0, now=1.0)
        with pytest.raises(StoreUnavailable):
            await store.put_metadata(TASK, ALICE, round=7, key="loss", value="0.5")
        await client.execute_command("REPLICAOF", "NO", "ONE")
        assert (await store.join(TASK, [ALICE], lease_until=10.0, now=1.0)).participants == 1


async def test_a_redis_without_memory_is_unavailable_and_nothing_is_half_done(own_redis: RedisProcess) -> None:
    async with connect(own_redis.url) as client:
        store = RedisRoundStore(client, new_epoch=lambda: "first")
        before = await opened(store)
        await client.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailable):
            await contributed(store, ALICE)
        assert await store.read_status(TASK) == before
        await client.config_set("maxmemory", 0)
        assert (await contributed(store, ALICE)).contributions == 1


async def test_a_redis_that_lacks_replicas_is_unavailable(own_redis: RedisProcess) -> None:
    async with connect(own_redis.url) as client:
        store = RedisRoundStore(client)
        await opened(store)
        await client.config_set("min-replicas-to-write", 1)
        with pytest.raises(StoreUnavailable):
            await store.join(TASK, [ALICE], lease_until=10.0, now=1.0)


@pytest.mark.parametrize(
    "message",
    [
        "MISCONF Errors writing to the AOF file: No space left on device",
        "BUSY Redis is busy running a script.",
        "CLUSTERDOWN The cluster is down",
        "Error running script (call to f_1): @user_script:5: -MISCONF Errors writing to the AOF file",
        "Error running script (call to f_1): @user_script: 12: -OOM command not allowed",
    ],
)
def test_an_error_word_is_found_where_redis_puts_it(message: str) -> None:
    with pytest.raises(StoreUnavailable), store_faults():
        raise ResponseError(message)


@pytest.mark.parametrize(
    "message",
    [
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "Error running script (call to f_1): @user_script:5: user_script:5: attempt to compare nil with number",
        "ERR wrong number of arguments for 'BUSY' command",
    ],
)
def test_a_bug_is_not_called_unavailable(message: str) -> None:
    with pytest.raises(ResponseError), store_faults():
        raise ResponseError(message)


async def test_a_password_that_is_wrong_is_unavailable_with_its_cause(own_redis: RedisProcess) -> None:
    async with connect(own_redis.url) as admin:
        await admin.config_set("requirepass", "secret")
        async with connect(own_redis.url) as client:
            with pytest.raises(StoreUnavailable) as fault, store_faults():
                await client.get("key")
        assert isinstance(fault.value.__cause__, redis.exceptions.RedisError)
