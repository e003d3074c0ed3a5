"""The process of the task service: reads its settings, puts the parts together, serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import grpc
from disco.task.v1 import task_service_pb2_grpc

from blobstore.opening import open_store
from roundstore.redis_settings import connect
from roundstore.task_hints import RedisTaskHints
from rpc import logs
from rpc.server import run, serve
from rpc.settings import load
from services.task_service.catalog import Catalog
from services.task_service.leftovers import Leftovers
from services.task_service.quotas import Quotas
from services.task_service.servicer import TaskServicer
from services.task_service.settings import TaskServiceSettings
from services.task_service.task_changes import TaskChanges
from services.task_service.task_news import TaskNews


async def main(settings: TaskServiceSettings) -> None:
    async with connect(settings.redis_url) as redis, open_store(settings) as store:
        quotas = Quotas(store, max_tasks=settings.max_tasks, max_bytes=settings.max_stored_bytes)
        catalog = Catalog(store, max_bytes=settings.max_message_bytes, quotas=quotas)
        await catalog.add_default_tasks(settings.default_task_ids, now=time.time())
        news = TaskNews(catalog.roster, RedisTaskHints(redis))
        leftovers = Leftovers(store, clock=time.time)
        servicer = TaskServicer(
            catalog,
            changes=TaskChanges(store),
            news=news,
            leftovers=leftovers,
            clock=time.time,
            max_bytes=settings.max_message_bytes,
        )

        def add_servicers(server: grpc.aio.Server) -> None:
            task_service_pb2_grpc.add_TaskServiceServicer_to_server(servicer, server)

        async with _in_the_background(news.run(), leftovers.run()):
            await serve(
                add_servicers,
                names=["disco.task.v1.TaskService"],
                host=settings.service_host,
                port=settings.task_service_port,
                settings=settings,
                metrics_port=settings.task_service_metrics_port,
                endless=["/disco.task.v1.TaskService/WatchTasks"],
            )


@asynccontextmanager
async def _in_the_background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs what never ends by itself while the block runs."""
    running = [asyncio.create_task(coroutine) for coroutine in work]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


if __name__ == "__main__":
    task_service_settings = load(TaskServiceSettings)
    logs.configure("task-service", level=task_service_settings.log_level, format=task_service_settings.log_format)
    run(main(task_service_settings))
