"""The whole system for the pages that describe it, with its metrics on."""

from __future__ import annotations

import base64
import json
import struct
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from tests.e2e.system import System, free_ports

POLL_HOLD_S = "0.5"
TOPOLOGY = {
    "class_name": "Sequential",
    "config": {
        "name": "tiny",
        "layers": [
            {
                "class_name": "Dense",
                "config": {"name": "d", "units": 1, "batch_input_shape": [None, 2], "dtype": "float32"},
            }
        ],
    },
    "keras_version": "tfjs-layers 4.20.0",
    "backend": "tensor_flow.js",
}


@dataclass(frozen=True)
class Described:
    """The system, and where each process says what it counts."""

    system: System
    metrics_ports: dict[str, int]

    @property
    def socket_url(self) -> str:
        return f"ws://127.0.0.1:{self.system.port}"

    def metrics(self, process: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_ports[process]}/metrics", timeout=10) as answer:
            return str(answer.read().decode())


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def described(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Described]:
    """Running, with the default tasks and those of the pages: `tiny` and `pair`."""
    processes = ("gateway", "task service", "aggregator", "signaling")
    ports = dict(zip(processes, free_ports(len(processes)), strict=True))
    settings = {f"DISCO_{name.upper().replace(' ', '_')}_METRICS_PORT": str(port) for name, port in ports.items()}
    system = System(tmp_path_factory.mktemp("docs") / "data", settings | {"DISCO_POLL_HOLD_S": POLL_HOLD_S})
    await system.start()
    try:
        create(system, "tiny", "Federated")
        create(system, "pair", "Decentralized")
        yield Described(system, ports)
    finally:
        await system.stop()


def create(system: System, task_id: str, scheme: str) -> None:
    """Uploads a task as a client of 2.1 describes it."""
    body = json.dumps({"task": task(task_id, scheme), "model": base64.b64encode(model()).decode()}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{system.url}v2.1/tasks", body), timeout=30) as answer:
        assert answer.read() == b"Successful task upload"


def task(task_id: str, scheme: str) -> dict[str, Any]:
    training = {
        "modelID": f"{task_id}-model",
        "epochs": 1,
        "batchSize": 1,
        "roundDuration": 1,
        "validationSplit": 0,
        "modelCompileData": {"optimizer": "sgd", "loss": "meanSquaredError", "metrics": []},
        "dataType": "tabular",
        "inputColumns": ["a", "b"],
        "outputColumns": ["c"],
        "scheme": scheme,
        "minimumReadyPeers": 2,
    }
    return {"taskID": task_id, "displayInformation": {"taskTitle": task_id}, "trainingInformation": training}


def model() -> bytes:
    """The artifacts of a model with a kernel of shape [2, 1] and a bias of shape [1], all zero."""
    specs = [{"name": "d/kernel", "shape": [2, 1], "dtype": "float32"}]
    specs += [{"name": "d/bias", "shape": [1], "dtype": "float32"}]
    artifacts = {
        "modelTopology": TOPOLOGY,
        "weightSpecs": specs,
        "weightData": msgspec.msgpack.Ext(0x1A, struct.pack("<3f", 0, 0, 0)),
    }
    return msgspec.msgpack.encode(artifacts)
