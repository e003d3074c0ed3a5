"""Which dialect a request speaks: protocol section 1.5, first match wins.

One pure function over what was asked (path, query, headers, sub-protocols) and what the gateway knows
beside it; it reads no clock, asks nobody and remembers nothing. Who does is `gateway.dialect_choice`.

    prefix    /v2.1/…  /v2.2/…  /v3.0/…  /v4/…      also without the slash behind it: /v2.1tasks
    route     /federated/… /decentralized/… → gdv;  /feai/<task>/<client> → g21;  /tfjs/<task>/… → tfjs
    hint      X-Disco-Protocol: 2.1 · sub-protocol disco.v2.1 · Accept: application/vnd.disco.v2.1+json · ?gen=2.1
    origin    the page that a browser names as its Origin is one that the operator knows
    headers   (HTTP) User-Agent axios/0. → g21, axios/1. → g30; Accept: application/json on a model → tfjs; */* → gdv
    pin       what the task in the path is pinned to
    memory    what clients of the same address spoke last
    default   configured; where it is "auto": the superset document over HTTP, g30 on /feai/<task> (G22 ignores
              what is not for it, G30 would throw), g21 on /deai/<task> (its clients alone are a published package)

What stands above `pin` was said by the client or about it. `pin` and `memory` are guesses: they count
only where clients of that generation do send such a request (`_plausible`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple
from urllib.parse import parse_qs

from learning.task import PINNED_DIALECTS, Scheme

AUTO: Final = "auto"

Rule = Literal["prefix", "route", "hint", "origin", "headers", "pin", "memory", "default"]
GUESSED: Final = frozenset({"pin", "memory", "default"})
"""The rules that nothing in the request speaks for."""

_GENERATIONS: Final = {"2.1": "g21", "2.2": "g22", "3": "g30", "3.0": "g30", "4": "gdv", "4.0": "gdv"}
_NUMBER = r"(2\.1|2\.2|3\.0|3|4\.0|4)"
_PREFIX = re.compile(rf"/v{_NUMBER}(?=$|/|tasks|feai|deai|federated|decentralized|tfjs)/?", re.IGNORECASE)
_VENDOR_TYPE = re.compile(rf"application/vnd\.disco\.v{_NUMBER}(?=$|[+;,\s])", re.IGNORECASE)
_SUBPROTOCOL = re.compile(rf"disco\.v{_NUMBER}", re.IGNORECASE)
_SOCKET = re.compile(r"/(feai|deai|federated|decentralized)/([^/]+)(?:/([^/]+))?/?", re.IGNORECASE)
_TFJS = re.compile(r"/tfjs/([^/]+)/([^/]+)/?", re.IGNORECASE)
_MODEL = re.compile(r"/tasks/([^/]+)/[^/]+/?", re.IGNORECASE)
_TFJS_TYPES: Final = ("application/json", "application/octet-stream", "application/vnd.tfjs+json")
_OF_AXIOS: Final = re.compile(r"application/json,\s*text/plain,\s*\*/\*")
"""What every axios accepts, in browsers, too: the clients of 2.1 to 3.0 are built on it, those of 4 are not."""
_EARLY: Final = frozenset({"g21", "g22", "g30"})
_ALL: Final = frozenset(PINNED_DIALECTS)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for HTTP, or for a socket. Header names are lower-case."""

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    subprotocols: tuple[str, ...] = ()
    is_socket: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """What the gateway knows beside the request; an empty text is nothing."""

    origins: Mapping[str, str] = field(default_factory=dict)
    """Dialects of web applications, by their origins (`gateway.dialects.origin_table`)."""
    pin: str = ""
    """What the task in the path is pinned to."""
    remembered: str = ""
    """What clients of the same address spoke last."""
    default: str = AUTO


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The outcome: which dialect, the path without its prefix, and which rule decided (for logs and metrics)."""

    dialect: str
    path: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class SocketRoute:
    """What the path of a socket names. `client_id` is empty where the client left its id to the server."""

    scheme: Scheme
    task_id: str
    client_id: str


def socket_route(path: str) -> SocketRoute | None:
    """Reads a socket's path (without prefix); None where it is no socket's. The ids are not checked here."""
    match = _SOCKET.fullmatch(path)
    if match is None:
        return None
    scheme = Scheme.FEDERATED if match[1].lower() in ("feai", "federated") else Scheme.DECENTRALIZED
    return SocketRoute(scheme, match[2], match[3] or "")


def task_in(asked: Asked) -> str:
    """The id in the path (without prefix) of a model or a socket, unchecked; empty where the path names no task."""
    if asked.is_socket:
        route = socket_route(asked.path)
        return route.task_id if route else ""
    match = _MODEL.fullmatch(asked.path)
    return match[1] if match else ""


def negotiate(asked: Asked, known: Known) -> Negotiated:
    """The dialect of a request. `/tfjs/…` comes back as the path `/tasks/…`."""
    prefixed, path = _without_prefix(asked.path)
    if not asked.is_socket and (match := _TFJS.fullmatch(path)):
        # A real model of TF.js belongs to no generation, whatever stands before it.
        return Negotiated("tfjs", f"/tasks/{match[1]}/{match[2]}", "route")
    plausible = _plausible(asked, path)
    verdicts: tuple[tuple[Rule, str], ...] = (
        ("prefix", prefixed),
        ("route", _of_route(path) if asked.is_socket else ""),
        ("hint", _of_hint(asked)),
        ("origin", known.origins.get(asked.headers.get("origin", "").lower(), "")),
        ("headers", "" if asked.is_socket else _of_headers(asked.headers, path)),
        ("pin", known.pin if known.pin in plausible.for_pin else ""),
        ("memory", known.remembered if known.remembered in plausible.for_memory else ""),
    )
    for rule, dialect in verdicts:
        if dialect:
            return Negotiated(dialect, path, rule)
    return Negotiated(_of_default(asked, path) if known.default == AUTO else known.default, path, "default")


def confirmed_subprotocol(offered: tuple[str, ...], dialect: str) -> str | None:
    """The first name that was offered for what is spoken; None: the socket has no sub-protocol."""
    return next((name for name in offered if _dialect_of(name) == dialect), None)


def _without_prefix(path: str) -> tuple[str, str]:
    """The dialect that the path's prefix names, or "", and the path behind it."""
    match = _PREFIX.match(path)
    if match is None:
        return "", path
    return _GENERATIONS[match[1]], "/" + path[match.end() :]


def _of_route(path: str) -> str:
    match = _SOCKET.fullmatch(path)
    if match is None:
        return ""
    if match[1].lower() in ("federated", "decentralized"):
        return "gdv"
    return "g21" if match[3] else ""


def _of_hint(asked: Asked) -> str:
    """What one of our own clients says about itself, or "". One that nobody knows is none."""
    for name in asked.subprotocols:
        if named := _dialect_of(name):
            return named
    for text in (asked.headers.get("x-disco-protocol", "").strip(), parse_qs(asked.query).get("gen", [""])[-1]):
        if text in _GENERATIONS:
            return _GENERATIONS[text]
    accepted = _VENDOR_TYPE.search(asked.headers.get("accept", ""))
    return _GENERATIONS[accepted[1]] if accepted else ""


def _of_headers(headers: Mapping[str, str], path: str) -> str:
    agent, accept = headers.get("user-agent", ""), headers.get("accept", "").strip()
    if agent.startswith("axios/0."):
        return "g21"
    if agent.startswith("axios/1."):
        return "g30"
    if accept in _TFJS_TYPES and _MODEL.fullmatch(path):
        return "tfjs"
    return "gdv" if accept == "*/*" else ""


def _of_default(asked: Asked, path: str) -> str:
    if not asked.is_socket:
        return "superset"
    match = _SOCKET.fullmatch(path)
    return "g21" if match and match[1].lower() == "deai" else "g30"


class _Plausible(NamedTuple):
    """Dialects whose clients might send a request that says nothing about itself."""

    for_pin: frozenset[str]
    for_memory: frozenset[str]


def _plausible(asked: Asked, path: str) -> _Plausible:
    """A guess that cannot be right is none: it would break a client that the rules below it serve well."""
    if not asked.is_socket:
        said = _EARLY if _OF_AXIOS.fullmatch(asked.headers.get("accept", "").strip()) else _ALL
        return _Plausible(said, said)
    match = _SOCKET.fullmatch(path)
    if match is None or match[1].lower() not in ("feai", "deai"):
        return _Plausible(frozenset(), frozenset())
    if match[1].lower() == "deai":
        return _Plausible(_EARLY, _EARLY)
    # Clients of 2.1 have their id in the path. One of 3.0 throws at what is for 2.2: an address is too weak for that.
    return _Plausible(frozenset({"g22", "g30"}), frozenset({"g30"}))


def _dialect_of(subprotocol: str) -> str:
    """The dialect that a sub-protocol's name means, or ""."""
    match = _SUBPROTOCOL.fullmatch(subprotocol)
    return _GENERATIONS[match[1]] if match else ""
