"""Hints that a task was created, updated or deleted: "read it again", and never more than that.

Any number of them may be lost, repeated or become one. Knows no task. Two
implementations pass one contract suite (tests/roundstore/test_task_hints.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Protocol

from redis.asyncio import Redis

from learning.ids import TaskId
from roundstore import redis_keys
from roundstore.redis_faults import store_faults


class TaskHints(Protocol):
    """Carries hints between the processes that keep tasks."""

    async def announce(self, task_id: TaskId) -> None:
        """Everybody who watches is told. Raises StoreUnavailable."""

    def watch(self) -> AsyncGenerator[TaskId | None, None]:
        """The hints; None at first, and whenever some may have been lost. Raises StoreUnavailable."""


class MemoryTaskHints:
    """For one event loop."""

    def __init__(self) -> None:
        self._watchers: set[asyncio.Queue[TaskId]] = set()

    async def announce(self, task_id: TaskId) -> None:
        for hints in self._watchers:
            hints.put_nowait(task_id)

    async def watch(self) -> AsyncGenerator[TaskId | None, None]:
        hints: asyncio.Queue[TaskId] = asyncio.Queue()
        self._watchers.add(hints)
        try:
            yield None
            while True:
                yield await hints.get()
        finally:
            self._watchers.remove(hints)


class RedisTaskHints:
    """Through Redis. The client stays its owner's: closing it is not done here."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def announce(self, task_id: TaskId) -> None:
        with store_faults():
            await self._redis.publish(redis_keys.TASKS_CHANNEL, task_id)

    async def watch(self) -> AsyncGenerator[TaskId | None, None]:
        with store_faults():
            async with self._redis.pubsub() as pubsub:
                await pubsub.subscribe(redis_keys.TASKS_CHANNEL)
                async for message in pubsub.listen():
                    # The client subscribes again on a connection that it replaced by itself; hints were lost then.
                    yield TaskId(message["data"].decode()) if message["type"] == "message" else None
