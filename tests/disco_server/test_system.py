"""Which processes are started, on which ports, and what each is told."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from disco_server.cannot_start import CannotStart
from disco_server.ports import WantedPort, find_free
from disco_server.settings import LauncherSettings
from disco_server.system import Service, System, decide, target_of

PORTS = [name for name in LauncherSettings.model_fields if name.endswith("_port")]
BASE = {"PATH": "/bin", "DISCO_DATA_DIR": "/d"}


def settings(**values: Any) -> LauncherSettings:
    return LauncherSettings(**{**dict.fromkeys(PORTS, 0), **values})


def a_system(**values: Any) -> System:
    services = (
        Service("task-service", "services.task_service", "TASK_SERVICE", 1, 11),
        Service("aggregator", "services.aggregator", "AGGREGATOR", 2, 12),
        Service("aggregator-2", "services.aggregator", "AGGREGATOR", 3, 13),
        Service("signaling", "services.signaling", "SIGNALING", 4, 0),
    )
    return System(settings(**values), services, gateway_port=8080)


def test_every_process_is_told_its_own_ports_and_no_other() -> None:
    plans = {plan.name: plan for plan in a_system().service_plans(BASE)}
    assert plans["aggregator-2"].command == (sys.executable, "-P", "-m", "services.aggregator")
    assert plans["aggregator-2"].environment == {
        **BASE,
        "DISCO_AGGREGATOR_PORT": "3",
        "DISCO_AGGREGATOR_METRICS_PORT": "13",
    }
    assert plans["signaling"].environment == {**BASE, "DISCO_SIGNALING_PORT": "4", "DISCO_SIGNALING_METRICS_PORT": "0"}


def test_gateway_is_told_where_everybody_is() -> None:
    plan = a_system(gateway_host="0.0.0.0").gateway_plan(BASE)
    assert plan.environment == {
        **BASE,
        "DISCO_GATEWAY_HOST": "0.0.0.0",
        "DISCO_GATEWAY_PORT": "8080",
        "DISCO_TASK_SERVICE_ADDRESS": "127.0.0.1:1",
        "DISCO_AGGREGATOR_ADDRESS": "ipv4:127.0.0.1:2,127.0.0.1:3",
        "DISCO_SIGNALING_ADDRESS": "127.0.0.1:4",
    }


@pytest.mark.parametrize(
    ("host", "ports", "target"),
    [
        ("127.0.0.1", [1], "127.0.0.1:1"),
        ("0.0.0.0", [1, 2], "ipv4:127.0.0.1:1,127.0.0.1:2"),
        ("::", [1, 2], "ipv6:[::1]:1,[::1]:2"),
        ("::1", [1], "[::1]:1"),
        ("localhost", [1], "localhost:1"),
    ],
)
def test_target_lists_every_replica(host: str, ports: list[int], target: str) -> None:
    assert target_of(host, ports) == target


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "http://127.0.0.1:8080/"), ("0.0.0.0", "http://127.0.0.1:8080/"), ("::1", "http://[::1]:8080/")],
)
def test_clients_are_given_an_address_that_ends_in_a_slash(host: str, address: str) -> None:
    assert a_system(gateway_host=host).address == address


def test_first_aggregator_gets_the_port_of_the_settings_and_the_others_any() -> None:
    port, metrics = find_free([WantedPort("", "", "127.0.0.1", 0)] * 2)
    system = decide(settings(aggregators=3, aggregator_port=port, aggregator_metrics_port=metrics))
    aggregators = [service for service in system.services if service.word == "AGGREGATOR"]
    assert [service.name for service in aggregators] == ["aggregator", "aggregator-2", "aggregator-3"]
    assert (aggregators[0].port, aggregators[0].metrics_port) == (port, metrics)
    numbers = [number for service in aggregators for number in (service.port, service.metrics_port)]
    assert len(set(numbers)) == 6
    assert 0 not in numbers


def test_metrics_that_are_turned_off_stay_off() -> None:
    assert [service.metrics_port for service in decide(settings(aggregators=2)).services] == [0, 0, 0, 0]


def test_port_that_two_processes_want_is_refused() -> None:
    (port,) = find_free([WantedPort("", "", "127.0.0.1", 0)])
    with pytest.raises(CannotStart, match="DISCO_SIGNALING_PORT"):
        decide(settings(task_service_port=port, signaling_port=port))


async def test_gateway_that_does_not_answer_is_not_ready() -> None:
    (port,) = find_free([WantedPort("", "", "127.0.0.1", 0)])
    system = System(settings(), (), gateway_port=port)
    assert not await system.gateway_is_ready()
    assert await system.get("/tasks") == (0, b"")
