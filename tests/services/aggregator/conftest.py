"""Fixtures for the aggregator: rounds in a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from roundstore.redis_settings import connect
from roundstore.redis_store import RedisRoundStore


@pytest_asyncio.fixture
async def store(redis_url: str) -> AsyncIterator[RedisRoundStore]:
    async with connect(redis_url) as redis:
        yield RedisRoundStore(redis)
