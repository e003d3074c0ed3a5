"""Metrics of a process."""

from __future__ import annotations

import asyncio
import socket
import urllib.request

import pytest
from prometheus_client import CollectorRegistry

from rpc.metrics import CallMetrics, metrics_endpoint, new_registry


def free_port() -> int:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        return int(placeholder.getsockname()[1])


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def test_two_processes_in_one_have_two_registries() -> None:
    first, second = new_registry(), new_registry()
    CallMetrics(first).answered("/a/B", code="OK", seconds=0.1)
    CallMetrics(second)
    labels = {"method": "/a/B", "code": "OK"}
    assert first.get_sample_value("disco_rpc_calls_total", labels) == 1
    assert second.get_sample_value("disco_rpc_calls_total", labels) is None


def test_a_registry_knows_the_process() -> None:
    assert new_registry().get_sample_value("process_resident_memory_bytes") or 0 > 0


def test_latencies_fall_into_buckets() -> None:
    registry = CollectorRegistry()
    CallMetrics(registry).answered("/a/B", code="OK", seconds=0.02)
    buckets = {
        bound: registry.get_sample_value("disco_rpc_seconds_bucket", {"method": "/a/B", "le": bound})
        for bound in ("0.01", "0.025", "+Inf")
    }
    assert buckets == {"0.01": 0, "0.025": 1, "+Inf": 1}


async def test_the_endpoint_serves_while_the_block_runs_and_gives_its_port_back() -> None:
    port = free_port()
    for _ in range(2):
        async with metrics_endpoint(new_registry(), host="127.0.0.1", port=port):
            assert "process_resident_memory_bytes" in await asyncio.to_thread(fetch, port)
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(fetch, port)


async def test_port_0_turns_the_endpoint_off() -> None:
    async with metrics_endpoint(CollectorRegistry(), host="host.invalid", port=0):
        pass
