"""Fixtures for everybody: a real Redis, and a real server that speaks S3."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import redis
import redis.asyncio
from hypothesis import HealthCheck, settings

from roundstore.redis_settings import connect
from tests.redis_process import RedisProcess
from tests.s3_process import S3Process

pytest.register_assert_rewrite("tests.blobstore.store_contract", "tests.roundstore.store_contract")


# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("disco", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("disco")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of a Redis that the whole run shares."""
    process = RedisProcess()
    try:
        process.start()
        yield process.url
    finally:
        process.close()


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of that Redis, with nothing in it."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest_asyncio.fixture
async def redis_client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of that Redis; replies are bytes."""
    async with connect(redis_url) as client:
        yield client


@pytest.fixture
def own_redis() -> Iterator[RedisProcess]:
    """A Redis for one test alone, which may kill it and start it again."""
    process = RedisProcess()
    try:
        process.start()
        yield process
    finally:
        process.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Process]:
    """A server that the whole run shares; each test has a folder of its own."""
    process = S3Process()
    try:
        process.start()
        yield process
    finally:
        process.close()


@pytest.fixture
def own_s3() -> Iterator[S3Process]:
    """A server for one test alone, which may kill it and start it again."""
    process = S3Process()
    try:
        process.start()
        yield process
    finally:
        process.close()
