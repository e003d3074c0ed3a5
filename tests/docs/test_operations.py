"""docs/operations.md says what there is: settings, metrics and limits against the code and the running processes."""

from __future__ import annotations

import re
from typing import Final

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from disco_server.settings import LauncherSettings
from gateway import web_server
from gateway.dialects import model_uploads, weights_document
from gateway.hub import MAX_PARTICIPANTS_PER_CALL
from gateway.metrics import GatewayMetrics
from gateway.settings import GatewaySettings
from gateway.websocket import MAX_FRAMES_WAITING
from learning.limits import MAX_TENSORS
from learning.policy import MAX_DEADLINE_S, MAX_STALENESS
from rpc.metrics import CallMetrics
from rpc.server import GRACE_S
from rpc.settings import KNOWN_NAMES, PREFIX, DiscoSettings
from services.aggregator.arrivals import RECEIVE_TIMEOUT_S
from services.aggregator.metrics import AggregatorMetrics
from services.aggregator.servicer import IDLE_TIMEOUT_S, MAX_LEASES
from services.aggregator.settings import AggregatorSettings
from services.signaling.settings import SignalingSettings
from services.signaling.signaling_metrics import SignalingMetrics
from services.task_service.servicer import MAX_CREATIONS
from services.task_service.settings import TaskServiceSettings
from services.task_service.topology.document import MAX_JSON_BYTES
from tests.disco_server.test_env_example import as_text, examples
from tests.docs.conftest import Described
from tests.docs.pages import broken_links, page, quoted, table

PAGE = page("operations.md")
READERS: Final[dict[str, type[DiscoSettings]]] = {
    "g": GatewaySettings,
    "t": TaskServiceSettings,
    "a": AggregatorSettings,
    "s": SignalingSettings,
    "l": LauncherSettings,
}
SERVICES = ("task service", "aggregator", "signaling")


def settings() -> dict[str, tuple[str, str]]:
    """Default and readers of each setting of the page."""
    rows = table(PAGE, "name", "default", "unit", "read by", "meaning")
    found = {quoted(name)[0]: (default.strip("`"), readers) for name, default, _, readers, _ in rows}
    assert len(found) == len(rows), "a setting stands there twice"
    return found


def metrics() -> dict[str, tuple[str, list[str], str]]:
    """Type, labels and process of each metric of the page."""
    rows = table(PAGE, "name", "type", "labels", "process", "meaning")
    return {quoted(name)[0]: (kind, quoted(labels), process) for name, kind, labels, process, _ in rows}


def test_links_lead_somewhere() -> None:
    assert broken_links("operations.md") == []


def test_page_names_every_setting_and_no_other() -> None:
    assert settings().keys() == KNOWN_NAMES


def test_defaults_are_those_of_the_example_file() -> None:
    assert {name: default for name, (default, _) in settings().items()} == examples()


@pytest.mark.parametrize(("letter", "process"), READERS.items())
def test_defaults_are_those_of_every_process_that_reads_them(letter: str, process: type[DiscoSettings]) -> None:
    told = {name: default for name, (default, readers) in settings().items() if letter in readers}
    found = {PREFIX + name.upper(): as_text(field.default) for name, field in process.model_fields.items()}
    if process is LauncherSettings:
        assert found["DISCO_REDIS_URL"] == ""  # it starts one of its own, as the page says
        found["DISCO_REDIS_URL"] = examples()["DISCO_REDIS_URL"]
    assert told == found


def test_unit_and_meaning_of_a_setting_are_never_empty() -> None:
    assert all(
        unit and meaning for _, _, unit, _, meaning in table(PAGE, "name", "default", "unit", "read by", "meaning")
    )


@pytest.mark.asyncio(loop_scope="package")
@pytest.mark.parametrize("process", ["gateway", *SERVICES])
async def test_every_process_exports_the_metrics_of_the_page(described: Described, process: str) -> None:
    exported = dict(re.findall(r"^# TYPE (disco_\w+) (\w+)$", described.metrics(process), re.M))
    exported = {name: kind for name, kind in exported.items() if not name.endswith("_created")}
    told = {
        name: kind
        for name, (kind, _, where) in metrics().items()
        if where == process or (where == "services" and process in SERVICES)
    }
    assert exported == told


def test_metrics_have_the_labels_of_the_page() -> None:
    owners = [of(CollectorRegistry()) for of in (GatewayMetrics, CallMetrics, AggregatorMetrics, SignalingMetrics)]
    collectors = [one for owner in owners for one in vars(owner).values() if isinstance(one, MetricWrapperBase)]
    labels = {collector.describe().__iter__().__next__().name: list(collector._labelnames) for collector in collectors}
    told = {name.removesuffix("_total"): named for name, (_, named, _) in metrics().items()}
    assert labels == told


def test_limits_are_those_of_the_code() -> None:
    assert model_uploads.MAX_DOCUMENT_BYTES == MAX_JSON_BYTES
    assert MAX_LEASES == MAX_PARTICIPANTS_PER_CALL
    assert dict(table(PAGE, "limit", "value")) == {
        "a frame, a model, a contribution (as float32), the body of `POST /tasks`": "`DISCO_MAX_MESSAGE_BYTES`",
        "topology, training configuration or weight specs of a model": f"{MAX_JSON_BYTES} bytes",
        "tensors of a contribution; dimensions of one": (f"{MAX_TENSORS}; {weights_document.MAX_DIMENSIONS}"),
        "contributions held by one aggregator": "`DISCO_UPLOAD_MEMORY_BYTES`; others wait",
        "upload of a contribution over gRPC: pause; in all": f"{IDLE_TIMEOUT_S:g} s; {RECEIVE_TIMEOUT_S:g} s",
        "frames waiting for a client that does not read": (
            f"{MAX_FRAMES_WAITING} or `DISCO_MAX_MESSAGE_BYTES`, then 4002"
        ),
        "tasks created at once, for each task service": f"{MAX_CREATIONS}",
        "participants whose leases one call renews": f"{MAX_LEASES}",
        "rounds a contribution may be late, at most, whatever the policy": f"{MAX_STALENESS - 1}",
        "deadline of a round, at most": f"{MAX_DEADLINE_S / 86400:g} days",
    }


def test_times_in_the_prose_are_those_of_the_code() -> None:
    said = " ".join(PAGE.split())
    sockets, requests = web_server.DRAIN_SOCKETS_S, web_server.DRAIN_HTTP_S
    for sentence in (
        f"after their contributions are settled ({sockets:g} s); requests finish ({requests:g} s) "
        f"| {sockets + requests:g} s |",
        f"calls in flight finish | {GRACE_S:g} s |",
        f"pings every {web_server.PING_S:g} s and closes idle HTTP connections after {web_server.IDLE_HTTP_S} s",
    ):
        assert sentence in said
