"""Prometheus metrics of a process: calls by method and status, and the endpoint that serves them.

Every process has its own registry; services add their own metrics to it. Knows
no method of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


def new_registry() -> CollectorRegistry:
    """A registry that knows the process' own memory, processor time and garbage collections."""
    registry = CollectorRegistry()
    prometheus_client.ProcessCollector(registry=registry)
    prometheus_client.PlatformCollector(registry=registry)
    prometheus_client.GCCollector(registry=registry)
    return registry


class CallMetrics:
    """Counts the calls a server answered and how long each took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "disco_rpc_calls", "Calls answered, by method and gRPC status.", ("method", "code"), registry=registry
        )
        self._seconds = Histogram(
            "disco_rpc_seconds", "Seconds until a call was answered.", ("method",), buckets=_SECONDS, registry=registry
        )

    def answered(self, method: str, *, code: str, seconds: float) -> None:
        """Records one call. Only methods that exist: a stranger's names would fill the memory."""
        self._calls.labels(method, code).inc()
        self._seconds.labels(method).observe(seconds)


@asynccontextmanager
async def metrics_endpoint(registry: CollectorRegistry, *, host: str, port: int) -> AsyncIterator[None]:
    """Serves `/metrics` while the block runs; not at all on port 0. Raises OSError where the port is taken."""
    if port == 0:
        yield
        return
    server, thread = prometheus_client.start_http_server(port, addr=host, registry=registry)
    try:
        yield
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        await asyncio.to_thread(thread.join)
