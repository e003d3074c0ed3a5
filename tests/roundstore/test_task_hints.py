"""Hints of changed tasks: in memory and through a real Redis."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
import redis.asyncio

from learning.ids import TaskId
from learning.refusals import StoreUnavailable
from roundstore.redis_settings import connect
from roundstore.task_hints import MemoryTaskHints, RedisTaskHints, TaskHints
from tests.redis_process import RedisProcess

TASK = TaskId("titanic")


class TaskHintsContract:
    async def test_everybody_who_watches_is_told(self, hints: TaskHints) -> None:
        async with aclosing(hints.watch()) as one, aclosing(hints.watch()) as two, asyncio.timeout(10):
            assert await anext(one) is None
            assert await anext(two) is None
            await hints.announce(TASK)
            assert await anext(one) == TASK
            assert await anext(two) == TASK

    async def test_a_hint_that_nobody_waits_for_is_lost(self, hints: TaskHints) -> None:
        await hints.announce(TaskId("early"))
        async with aclosing(hints.watch()) as told, asyncio.timeout(10):
            assert await anext(told) is None
            await hints.announce(TASK)
            assert await anext(told) == TASK


class TestMemoryTaskHints(TaskHintsContract):
    @pytest.fixture
    def hints(self) -> TaskHints:
        return MemoryTaskHints()


class TestRedisTaskHints(TaskHintsContract):
    @pytest.fixture
    def hints(self, redis_client: redis.asyncio.Redis) -> TaskHints:
        return RedisTaskHints(redis_client)


async def test_without_a_redis_hints_are_refused_by_name(own_redis: RedisProcess) -> None:
    async with connect(own_redis.url) as client:
        hints = RedisTaskHints(client)
        own_redis.kill()
        with pytest.raises(StoreUnavailable):
            await hints.announce(TASK)
        with pytest.raises(StoreUnavailable):
            await anext(hints.watch())
