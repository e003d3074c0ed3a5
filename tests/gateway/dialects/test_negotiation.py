from collections.abc import Iterable, Mapping

import pytest

from gateway.dialects.negotiation import (
    Asked,
    Known,
    Negotiated,
    SocketRoute,
    confirmed_subprotocol,
    negotiate,
    socket_route,
    task_in,
)
from gateway.dialects.registry import DIALECTS, RENDERINGS
from learning.task import PINNED_DIALECTS, Scheme

AXIOS = "application/json, text/plain, */*"
APP = "https://app.example"
SPOKEN = {"g21": "2.1", "g22": "2.2", "g30": "3.0", "gdv": "4"}


def negotiate_http(path: str, headers: Mapping[str, str], *, query: str = "", default: str = "auto") -> Negotiated:
    return negotiate(Asked(path, headers, query), Known(default=default))


def negotiate_socket(
    path: str,
    headers: Mapping[str, str],
    *,
    query: str = "",
    subprotocols: Iterable[str] = (),
    default: str = "auto",
) -> Negotiated:
    return negotiate(Asked(path, headers, query, tuple(subprotocols), is_socket=True), Known(default=default))


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
    assert confirmed_subprotocol(tuple(offered), dialect) == confirmed


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
    assert set(PINNED_DIALECTS) == set(DIALECTS)


# Every rule beats all those after it: the signs are taken away one by one, and each says something else than its
# neighbours.

HTTP_SIGNS = [
    ("prefix", "g21"),
    ("hint", "g22"),
    ("origin", "g21"),
    ("headers", "g30"),
    ("pin", "g22"),
    ("memory", "g21"),
    ("default", "g30"),
]
SOCKET_SIGNS = [
    ("prefix", "gdv"),
    ("hint", "g21"),
    ("origin", "g22"),
    ("pin", "g30"),
    ("memory", "g21"),
    ("default", "g22"),
]


def known_with(signs: Mapping[str, str]) -> Known:
    return Known(
        origins={APP: signs["origin"]} if "origin" in signs else {},
        pin=signs.get("pin", ""),
        remembered=signs.get("memory", ""),
        default=signs.get("default", "auto"),
    )


@pytest.mark.parametrize("hint", ["header", "accept", "query"])
@pytest.mark.parametrize("first", range(len(HTTP_SIGNS)))
def test_over_http_every_rule_beats_all_that_come_after_it(first: int, hint: str) -> None:
    rule, dialect = HTTP_SIGNS[first]
    signs = dict(HTTP_SIGNS[first:])
    headers = {"accept": AXIOS, "user-agent": "axios/1.7.2" if "headers" in signs else "Mozilla/5.0"}
    headers |= {"origin": APP} if "origin" in signs else {}
    if "hint" in signs:
        hints = {"header": {"x-disco-protocol": "2.2"}, "accept": {"accept": "application/vnd.disco.v2.2+json"}}
        headers |= hints.get(hint, {})
    query = "a=b&gen=2.2" if "hint" in signs and hint == "query" else ""
    prefix = "/v2.1" if "prefix" in signs else ""
    asked = Asked(f"{prefix}/tasks/t/model.json", headers, query)
    assert negotiate(asked, known_with(signs)) == Negotiated(dialect, "/tasks/t/model.json", rule)


@pytest.mark.parametrize("hint", ["subprotocol", "header", "query"])
@pytest.mark.parametrize("first", range(len(SOCKET_SIGNS)))
def test_on_sockets_every_rule_beats_all_that_come_after_it(first: int, hint: str) -> None:
    rule, dialect = SOCKET_SIGNS[first]
    signs = dict(SOCKET_SIGNS[first:])
    headers = {"origin": APP} if "origin" in signs else {}
    number = SPOKEN[signs["hint"]] if "hint" in signs else ""
    headers |= {"x-disco-protocol": number} if number and hint == "header" else {}
    subprotocols = (f"disco.v{number}",) if number and hint == "subprotocol" else ()
    query = f"gen={number}" if number and hint == "query" else ""
    prefix = "/v4" if "prefix" in signs else ""
    asked = Asked(f"{prefix}/deai/t", headers, query, subprotocols, is_socket=True)
    assert negotiate(asked, known_with(signs)) == Negotiated(dialect, "/deai/t", rule)


@pytest.mark.parametrize(
    ("path", "prefix", "dialect"), [("/feai/t/c", "/v3.0", "g21"), ("/federated/t", "/v2.1", "gdv")]
)
def test_the_route_comes_after_the_prefix_and_before_all_else(path: str, prefix: str, dialect: str) -> None:
    known = Known(origins={APP: "g22"}, pin="g30", remembered="g30", default="g22")
    asked = Asked(path, {"origin": APP, "x-disco-protocol": "2.2"}, "gen=2.2", ("disco.v2.2",), is_socket=True)
    assert negotiate(asked, known) == Negotiated(dialect, path, "route")
    with_prefix = Asked(prefix + path, asked.headers, asked.query, asked.subprotocols, is_socket=True)
    assert negotiate(with_prefix, known).rule == "prefix"


@pytest.mark.parametrize("path", ["/feai/t", "/deai/t"])
def test_page_of_a_known_origin_is_of_its_generation(path: str) -> None:
    known = Known(origins={APP: "g22"})
    assert negotiate(Asked(path, {"origin": APP}, is_socket=True), known) == Negotiated("g22", path, "origin")
    assert negotiate(Asked("/tasks", {"origin": "HTTPS://App.Example", "accept": "*/*"}), known).dialect == "g22"
    for stranger in ("https://app.example.org", "http://app.example", "https://app.example:8443", "null", ""):
        assert negotiate(Asked(path, {"origin": stranger}, is_socket=True), known).rule == "default"


@pytest.mark.parametrize(
    ("path", "pins", "memories"),
    [
        ("/feai/t", {"g22", "g30"}, {"g30"}),
        ("/deai/t", {"g21", "g22", "g30"}, {"g21", "g22", "g30"}),
        ("/elsewhere", set(), set()),
    ],
)
def test_what_clients_of_no_such_generation_would_ask_is_not_guessed(
    path: str, pins: set[str], memories: set[str]
) -> None:
    """A client of 3.0 at /feai/t would throw at what is for 2.2, and 2.1 is never there: its id is in the path."""
    asked = Asked(path, is_socket=True)
    assert {pin for pin in DIALECTS if negotiate(asked, Known(pin=pin)).rule == "pin"} == pins
    assert {kept for kept in DIALECTS if negotiate(asked, Known(remembered=kept)).rule == "memory"} == memories


def test_who_accepts_what_axios_accepts_is_no_client_of_generation_4() -> None:
    asked = Asked("/tasks/t/model.json", {"accept": AXIOS, "user-agent": "Mozilla/5.0"})
    assert negotiate(asked, Known(pin="gdv", remembered="gdv")) == Negotiated("superset", asked.path, "default")
    assert negotiate(asked, Known(pin="gdv", remembered="g21")) == Negotiated("g21", asked.path, "memory")
    asked = Asked("/tasks/t/model.json", {"accept": "text/html"})
    assert negotiate(asked, Known(pin="gdv")) == Negotiated("gdv", asked.path, "pin")


def test_axios_of_a_release_that_no_client_has_says_nothing() -> None:
    assert negotiate_http("/tasks", {"user-agent": "axios/2.0.0", "accept": AXIOS}).rule == "default"


def test_one_hint_that_nobody_knows_does_not_hide_another() -> None:
    assert negotiate_http("/tasks", {"x-disco-protocol": "9"}, query="gen=2.1").dialect == "g21"


def test_paths_of_models_and_sockets_name_the_task() -> None:
    assert task_in(Asked("/tasks/t/model.json")) == "t"
    assert task_in(Asked("/feai/t/c", is_socket=True)) == task_in(Asked("/deai/t/", is_socket=True)) == "t"
    assert [task_in(Asked(path)) for path in ("/tasks", "/feai/t", "/tasks/t", "/tasks/t/versions/0")] == [""] * 4
