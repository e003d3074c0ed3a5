"""How processes find Redis: the settings, and the client made from them. Knows nothing of what is kept there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import redis.exceptions
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

MAX_CONNECTIONS = 64
TIMEOUT_S = 5.0


class RedisSettings(BaseSettings):
    """A fragment: processes that keep rounds inherit it."""

    model_config = SettingsConfigDict(env_prefix="DISCO_", env_ignore_empty=True, frozen=True, extra="ignore")

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="The Redis that all processes share: redis://, rediss:// or unix:///path/to/socket.",
    )


class _Cancellable(AbstractConnection):
    """A connection on which a cancellation is never lost.

    redis-py sends under `asyncio.wait_for`, which on Python 3.11 forgets a cancellation that
    arrives just when the bytes are out: the task goes on, and whoever waits for its end
    waits for ever. Here the whole of sending has the one limit instead.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        limit, self.socket_timeout = self.socket_timeout, None  # without one of its own, redis-py sends as it should
        try:
            async with asyncio.timeout(limit):
                await super().send_packed_command(command, check_health)
        except TimeoutError:
            raise redis.exceptions.TimeoutError("Timeout writing to socket") from None
        finally:
            self.socket_timeout = limit


def connect(url: str) -> Redis:
    """A client that connects when it is first used; replies are bytes. Close it with `aclose`.

    Every command ends within a few timeouts, and a lost connection is replaced
    once before the caller hears of it: all commands sent through it may be sent twice.
    """
    # No health checks: where Redis refuses them while a connection is made (loading, or a wrong password), the client
    # connects again inside of connecting, without end. A dead connection shows when it is used, or by TCP keepalive.
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=TIMEOUT_S,
        socket_timeout=TIMEOUT_S,
        retry=Retry(ConstantBackoff(0.02), retries=1),
        protocol=2,
        decode_responses=False,
    )
    pool.connection_class = type("Cancellable", (_Cancellable, pool.connection_class), {})
    return Redis.from_pool(pool)
