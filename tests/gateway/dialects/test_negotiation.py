import pytest

from gateway.dialects.negotiation import (
    Negotiated,
    SocketRoute,
    confirmed_subprotocol,
    negotiate_http,
    negotiate_socket,
    socket_route,
)
from gateway.dialects.registry import DIALECTS, RENDERINGS
from learning.task import Scheme

AXIOS = "application/json, text/plain, */*"


@pytest.mark.parametrize(
    ("path", "dialect", "rest"),
    [
        ("/v2.1/tasks", "g21", "/tasks"),
        ("/v2.1tasks", "g21", "/tasks"),
        ("/v2.2/tasks", "g22", "/tasks"),
        ("/v3.0/tasks/t/model.json", "g30", "/tasks/t/model.json"),
        ("/v3/tasks", "g30", "/tasks"),
        ("/v4/tasks", "gdv", "/tasks"),
        ("/V4/tasks", "gdv", "/tasks"),
        ("/v2.1", "g21", "/"),
        ("/v2.1/", "g21", "/"),
    ],
)
def test_a_prefix_names_the_dialect_and_is_taken_off(path: str, dialect: str, rest: str) -> None:
    browser = {"accept": "*/*", "user-agent": "axios/1.7.2", "x-disco-protocol": "2.2"}
    assert negotiate_http(path, browser, query="gen=4") == Negotiated(dialect, rest, "prefix")


@pytest.mark.parametrize("path", ["/v9/tasks", "/v2.1x/tasks", "/v2/tasks", "/tasks/v2.1/model.json", "/v45/tasks"])
def test_what_only_looks_like_a_prefix_stays(path: str) -> None:
    assert negotiate_http(path, {"accept": AXIOS}) == Negotiated("superset", path, "default")


@pytest.mark.parametrize(
    ("path", "dialect", "rest"),
    [
        ("/v2.1/feai/t/c", "g21", "/feai/t/c"),
        ("/v2.1feai/t/c", "g21", "/feai/t/c"),
        ("/v2.1/deai/t", "g21", "/deai/t"),
        ("/v3.0deai/t", "g30", "/deai/t"),
        ("/v4federated/t", "gdv", "/federated/t"),
        ("/v2.2/federated/t", "g22", "/federated/t"),
    ],
)
def test_a_prefix_decides_for_sockets_before_the_route_does(path: str, dialect: str, rest: str) -> None:
    assert negotiate_socket(path, {}) == Negotiated(dialect, rest, "prefix")


@pytest.mark.parametrize(
    ("offered", "dialect", "confirmed"),
    [
        (["disco.v2.1"], "g21", "disco.v2.1"),
        (["chat", "disco.v4", "DISCO.V3", "disco.v3.0"], "g30", "DISCO.V3"),
        (["disco.v3.0"], "g21", None),
        (["disco.v9"], "g30", None),
        (["disco.v2.1.1", "xdisco.v2.1", "chat", ""], "g21", None),
        ([], "g21", None),
    ],
)
def test_subprotocol_is_confirmed_only_where_it_is_spoken(
    offered: list[str], dialect: str, confirmed: str | None
) -> None:
    assert confirmed_subprotocol(offered, dialect) == confirmed


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/federated/t", "gdv"),
        ("/decentralized/t", "gdv"),
        ("/feai/t/11111111-2222-4333-8444-555555555555", "g21"),
        ("/feai/t/c/", "g21"),
        ("/deai/t/c", "g21"),
    ],
)
def test_a_route_of_one_generation_alone_decides(path: str, dialect: str) -> None:
    assert negotiate_socket(path, {"x-disco-protocol": "2.2"}) == Negotiated(dialect, path, "route")


def test_our_own_clients_say_what_they_speak() -> None:
    assert negotiate_socket("/feai/t", {"x-disco-protocol": "2.2"}) == Negotiated("g22", "/feai/t", "hint")
    assert negotiate_socket("/deai/t", {}, subprotocols=["chat", "disco.v2.1"]).dialect == "g21"
    assert negotiate_socket("/deai/t", {}, query="gen=2.2").dialect == "g22"
    vendor = "application/vnd.disco.v2.1+json"
    assert negotiate_http("/tasks", {"accept": f"text/html, {vendor};q=1"}) == Negotiated("g21", "/tasks", "hint")
    assert negotiate_http("/tasks", {"accept": "application/vnd.disco.v2.2+msgpack"}).dialect == "g22"
    assert negotiate_http("/tasks", {"accept": "*/*"}, query="a=1&gen=3.0").dialect == "g30"


def test_a_hint_nobody_knows_is_no_hint() -> None:
    assert negotiate_socket(
        "/feai/t", {"x-disco-protocol": "7"}, subprotocols=["disco.v7"], query="gen=7"
    ) == Negotiated("g30", "/feai/t", "default")


@pytest.mark.parametrize(
    ("headers", "path", "dialect"),
    [
        ({"user-agent": "axios/0.27.2", "accept": AXIOS}, "/tasks", "g21"),
        ({"user-agent": "axios/1.7.2", "accept": AXIOS}, "/tasks", "g30"),
        ({"user-agent": "node", "accept": "*/*"}, "/tasks/t/model.json", "gdv"),
        ({"user-agent": "curl/8", "accept": "*/*"}, "/tasks", "gdv"),
        ({"user-agent": "Mozilla", "accept": "application/json"}, "/tasks/t/model.json", "tfjs"),
        ({"user-agent": "Mozilla", "accept": "application/octet-stream"}, "/tasks/t/weights.bin", "tfjs"),
        ({"accept": "application/vnd.tfjs+json"}, "/tasks/t/model.json", "tfjs"),
    ],
)
def test_over_http_the_headers_tell_some_generations(headers: dict[str, str], path: str, dialect: str) -> None:
    assert negotiate_http(path, headers) == Negotiated(dialect, path, "headers")


def test_the_configured_default_decides_last() -> None:
    assert negotiate_http("/tasks", {"accept": AXIOS}).dialect == "superset"
    assert negotiate_http("/tasks", {"accept": "application/json"}).dialect == "superset"
    assert negotiate_http("/tasks", {}, default="g21") == Negotiated("g21", "/tasks", "default")
    assert negotiate_socket("/feai/t", {}) == Negotiated("g30", "/feai/t", "default")
    assert negotiate_socket("/deai/t", {}) == Negotiated("g21", "/deai/t", "default")
    assert negotiate_socket("/deai/t", {}, default="g30").dialect == "g30"
    assert negotiate_socket("/deai/t", {}, default="g21") == Negotiated("g21", "/deai/t", "default")


def test_the_path_of_a_real_tfjs_model_is_that_of_its_task() -> None:
    assert negotiate_http("/tfjs/t/model.json", {"accept": "*/*"}) == Negotiated("tfjs", "/tasks/t/model.json", "route")
    assert negotiate_http("/v2.1/tfjs/t/weights.bin", {}).path == "/tasks/t/weights.bin"


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/feai/t/c", SocketRoute(Scheme.FEDERATED, "t", "c")),
        ("/feai/t/c/", SocketRoute(Scheme.FEDERATED, "t", "c")),
        ("/FEAI/T", SocketRoute(Scheme.FEDERATED, "T", "")),
        ("/federated/t/", SocketRoute(Scheme.FEDERATED, "t", "")),
        ("/deai/t", SocketRoute(Scheme.DECENTRALIZED, "t", "")),
        ("/deai/t/c/", SocketRoute(Scheme.DECENTRALIZED, "t", "c")),
        ("/decentralized/t", SocketRoute(Scheme.DECENTRALIZED, "t", "")),
        ("/feai", None),
        ("/feai/", None),
        ("/feai//", None),
        ("/feai/t/c/d", None),
        ("/tasks/t", None),
    ],
)
def test_the_path_of_a_socket_names_scheme_task_and_client(path: str, route: SocketRoute | None) -> None:
    assert socket_route(path) == route


def test_every_name_that_negotiation_can_come_to_is_spoken() -> None:
    assert set(RENDERINGS) == {"g21", "g22", "g30", "gdv", "tfjs", "superset"}
    assert all(rendering.name == name for name, rendering in RENDERINGS.items())
    assert set(DIALECTS) == {"g21", "g22", "g30", "gdv"}
