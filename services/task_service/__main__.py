"""The process of the task service: reads its settings, puts the parts together, serves."""

from __future__ import annotations

import time

import grpc
from disco.task.v1 import task_service_pb2_grpc

from blobstore.opening import open_store
from rpc import logs
from rpc.server import run, serve
from rpc.settings import load
from services.task_service.catalog import Catalog
from services.task_service.servicer import TaskServicer
from services.task_service.settings import TaskServiceSettings


async def main(settings: TaskServiceSettings) -> None:
    async with open_store(settings) as store:
        catalog = Catalog(store, max_bytes=settings.max_message_bytes)
        await catalog.add_default_tasks(settings.default_task_ids, now=time.time())
        servicer = TaskServicer(catalog, clock=time.time, max_bytes=settings.max_message_bytes)

        def add_servicers(server: grpc.aio.Server) -> None:
            task_service_pb2_grpc.add_TaskServiceServicer_to_server(servicer, server)

        await serve(
            add_servicers,
            names=["disco.task.v1.TaskService"],
            host=settings.service_host,
            port=settings.task_service_port,
            settings=settings,
            metrics_port=settings.task_service_metrics_port,
        )


if __name__ == "__main__":
    task_service_settings = load(TaskServiceSettings)
    logs.configure("task-service", level=task_service_settings.log_level, format=task_service_settings.log_format)
    run(main(task_service_settings))
