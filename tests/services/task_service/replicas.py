"""A replica of the task service in this process, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from disco.task.v1 import task_service_pb2_grpc

from blobstore.store import BlobStore
from roundstore.task_hints import TaskHints
from rpc.channel import connect
from rpc.server import serve
from rpc.settings import ServerSettings
from services.task_service.catalog import Catalog
from services.task_service.leftovers import Leftovers
from services.task_service.quotas import Quotas
from services.task_service.servicer import TaskServicer
from services.task_service.task_changes import TaskChanges
from services.task_service.task_news import TaskNews

if TYPE_CHECKING:
    Stub = task_service_pb2_grpc.TaskServiceAsyncStub
LIMIT = 8 << 20
NOW = 1_700_000_000.25


@asynccontextmanager
async def replica(store: BlobStore, hints: TaskHints, **options: Any) -> AsyncIterator[Stub]:
    """One that is called; options as for `serving`."""
    async with serving(store, hints, **options) as address, connect(address) as channel:
        yield task_service_pb2_grpc.TaskServiceStub(channel)


@asynccontextmanager
async def serving(
    store: BlobStore, hints: TaskHints, *, look_again_s: float = 600.0, quotas: Quotas | None = None
) -> AsyncIterator[str]:
    """Its address. It hears of other replicas by hints alone, unless it looks again more often."""
    catalog = Catalog(store, max_bytes=LIMIT, quotas=quotas)
    news = TaskNews(catalog.roster, hints, look_again_s=look_again_s)
    leftovers = Leftovers(store, clock=lambda: NOW)
    servicer = TaskServicer(
        catalog,
        changes=TaskChanges(store),
        news=news,
        leftovers=leftovers,
        clock=lambda: NOW,
        max_bytes=LIMIT,
    )
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    running = [
        asyncio.create_task(news.run()),
        asyncio.create_task(leftovers.run()),
        asyncio.create_task(
            serve(
                lambda server: task_service_pb2_grpc.add_TaskServiceServicer_to_server(servicer, server),
                names=["disco.task.v1.TaskService"],
                host="127.0.0.1",
                port=0,
                settings=ServerSettings(),
                ready=port.set_result,
                stop=stop,
                endless=["/disco.task.v1.TaskService/WatchTasks"],
            )
        ),
    ]
    try:
        yield f"127.0.0.1:{await asyncio.wait_for(port, 10)}"
    finally:
        stop.set()
        await asyncio.wait_for(running.pop(), 20)
        for background in running:
            background.cancel()
        await asyncio.gather(*running, return_exceptions=True)
