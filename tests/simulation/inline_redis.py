"""A real Redis under an event loop without sockets: every command is sent and answered while all else stands still.

Stands where `redis.asyncio.Redis` does, for as much of it as `RedisRoundStore` uses. A command
takes no virtual time; that it does elsewhere, and what may go wrong then, is for `faults.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Self, cast

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from roundstore import redis_keys
from roundstore.redis_store import RedisRoundStore
from roundstore.store import RoundStore
from tests.redis_process import RedisProcess


class RedisStores:
    """A Redis of its own; every store that it makes is empty, and ends the one before."""

    def __enter__(self) -> Self:
        self._process = RedisProcess()
        self._process.start()
        self._client = redis.Redis.from_url(self._process.url)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._process.close()

    def new(self) -> RoundStore:
        self._client.flushdb()
        return RedisRoundStore(cast(redis.asyncio.Redis, InlineRedis(self._client)))


class InlineRedis:
    """A client whose commands are over when they return. One channel is all that anybody subscribes to."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._hints: Any = client.pubsub()  # type: ignore[no-untyped-call]
        self._hints.subscribe(redis_keys.CHANNEL)
        self._subscribers: list[asyncio.Queue[dict[str, Any]]] = []
        self._take_hints()

    def __getattr__(self, command: str) -> Callable[..., Any]:
        async def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return getattr(self._client, command)(*args, **kwargs)
            finally:
                self._take_hints()

        return run

    @property
    def connection_pool(self) -> InlinePool:
        return InlinePool(self)

    def pipeline(self, **kwargs: Any) -> InlinePipeline:
        return InlinePipeline(self._client.pipeline(**kwargs))

    def pubsub(self) -> InlineHints:
        return InlineHints(self._subscribers)

    def _take_hints(self) -> None:
        """Hands out what was published so far: an answer to a ping comes after all of it."""
        self._hints.ping()
        while (message := self._hints.handle_message(self._hints.parse_response())) is None or message[
            "type"
        ] != "pong":
            if message is not None and message["type"] == "message":
                for queue in self._subscribers:
                    queue.put_nowait(message)


class InlinePool:
    """Where connections come from. All are the one that the client has."""

    def __init__(self, redis: InlineRedis) -> None:
        self._redis = redis

    async def get_connection(self) -> InlineConnection:
        return InlineConnection(self._redis)

    async def release(self, connection: InlineConnection) -> None:
        pass


class InlineConnection:
    """One command, and then its answer."""

    def __init__(self, redis: InlineRedis) -> None:
        self._redis = redis
        self.retry = Retry(NoBackoff(), retries=0)

    async def send_command(self, *command: Any) -> None:
        self._command = command

    async def read_response(self) -> Any:
        return await self._redis.execute_command(*self._command)

    async def disconnect(self) -> None:
        pass


class InlinePipeline:
    """Commands that are kept until `execute`."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def __getattr__(self, command: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: getattr(self._pipeline, command)(*args, **kwargs)

    async def execute(self) -> list[Any]:
        return list(self._pipeline.execute())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pipeline.reset()


class InlineHints:
    """A subscription."""

    def __init__(self, subscribers: list[asyncio.Queue[dict[str, Any]]]) -> None:
        self._subscribers = subscribers
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._subscribers.append(self._queue)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._subscribers.remove(self._queue)

    async def subscribe(self, channel: str) -> None:
        assert channel == redis_keys.CHANNEL
        self._queue.put_nowait({"type": "subscribe"})

    async def listen(self) -> AsyncIterator[dict[str, Any]]:
        while True:
            yield await self._queue.get()
