"""Which dialect a request speaks: protocol section 1.5, first match wins.

Decides from the request alone (its path, query, headers, sub-protocols) and a
configured default. Knows no task, no memory of earlier requests and no codec.

    prefix    /v2.1/…  /v2.2/…  /v3.0/…  /v4/…      also without the slash behind it: /v2.1tasks
    route     /federated/… /decentralized/… → gdv;  /feai/<task>/<client> → g21;  /tfjs/<task>/… → tfjs
    hint      X-Disco-Protocol: 2.1 · sub-protocol disco.v2.1 · Accept: application/vnd.disco.v2.1+json · ?gen=2.1
    headers   (HTTP) User-Agent axios/0. → g21, axios/1. → g30; Accept: application/json on a model → tfjs; */* → gdv
    default   configured; where it is "auto": the superset document over HTTP, g30 on /feai/<task> (G22 ignores
              what is not for it, G30 would throw), g21 on /deai/<task> (its clients alone are a published package)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

from learning.task import Scheme

AUTO = "auto"

_GENERATIONS = {"2.1": "g21", "2.2": "g22", "3": "g30", "3.0": "g30", "4": "gdv", "4.0": "gdv"}
_NUMBER = r"(2\.1|2\.2|3\.0|3|4\.0|4)"
_PREFIX = re.compile(rf"/v{_NUMBER}(?=$|/|tasks|feai|deai|federated|decentralized|tfjs)/?", re.IGNORECASE)
_VENDOR_TYPE = re.compile(rf"application/vnd\.disco\.v{_NUMBER}(?=$|[+;,\s])", re.IGNORECASE)
_SUBPROTOCOL = re.compile(rf"disco\.v{_NUMBER}", re.IGNORECASE)
_SOCKET = re.compile(r"/(feai|deai|federated|decentralized)/([^/]+)(?:/([^/]+))?/?", re.IGNORECASE)
_TFJS = re.compile(r"/tfjs/([^/]+)/([^/]+)/?", re.IGNORECASE)
_MODEL = re.compile(r"/tasks/[^/]+/[^/]+/?", re.IGNORECASE)
_TFJS_TYPES = ("application/json", "application/octet-stream", "application/vnd.tfjs+json")


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The outcome: which dialect, the path without its prefix, and which rule decided (for logs and metrics)."""

    dialect: str
    path: str
    rule: str


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


def negotiate_socket(
    path: str,
    headers: Mapping[str, str],
    *,
    query: str = "",
    subprotocols: Iterable[str] = (),
    default: str = AUTO,
) -> Negotiated:
    """The dialect of a WebSocket upgrade. Header names are lower-case."""
    prefixed, path = _without_prefix(path)
    if prefixed:
        return Negotiated(prefixed, path, "prefix")
    match = _SOCKET.fullmatch(path)
    if match and match[1].lower() in ("federated", "decentralized"):
        return Negotiated("gdv", path, "route")
    if match and match[3]:
        return Negotiated("g21", path, "route")
    for name in subprotocols:
        if named := _dialect_of(name):
            return Negotiated(named, path, "hint")
    if hinted := _hint(headers, query):
        return Negotiated(hinted, path, "hint")
    if default != AUTO:
        return Negotiated(default, path, "default")
    return Negotiated("g21" if match and match[1].lower() == "deai" else "g30", path, "default")


def confirmed_subprotocol(offered: Iterable[str], dialect: str) -> str | None:
    """The first name that was offered for what is spoken; None: the socket has no sub-protocol."""
    return next((name for name in offered if _dialect_of(name) == dialect), None)


def negotiate_http(path: str, headers: Mapping[str, str], *, query: str = "", default: str = AUTO) -> Negotiated:
    """The dialect of an HTTP request. Header names are lower-case. `/tfjs/…` comes back as the path `/tasks/…`."""
    prefixed, path = _without_prefix(path)
    if match := _TFJS.fullmatch(path):
        return Negotiated("tfjs", f"/tasks/{match[1]}/{match[2]}", "route")
    if prefixed:
        return Negotiated(prefixed, path, "prefix")
    if hinted := _hint(headers, query):
        return Negotiated(hinted, path, "hint")
    agent, accept = headers.get("user-agent", ""), headers.get("accept", "").strip()
    if agent.startswith("axios/0."):
        return Negotiated("g21", path, "headers")
    if agent.startswith("axios/"):
        return Negotiated("g30", path, "headers")
    if accept in _TFJS_TYPES and _MODEL.fullmatch(path):
        return Negotiated("tfjs", path, "headers")
    if accept == "*/*":
        return Negotiated("gdv", path, "headers")
    return Negotiated("superset" if default == AUTO else default, path, "default")


def _without_prefix(path: str) -> tuple[str, str]:
    """The dialect that the path's prefix names, or "", and the path behind it."""
    match = _PREFIX.match(path)
    if match is None:
        return "", path
    return _GENERATIONS[match[1]], "/" + path[match.end() :]


def _dialect_of(subprotocol: str) -> str:
    """The dialect that a sub-protocol's name means, or ""."""
    match = _SUBPROTOCOL.fullmatch(subprotocol)
    return _GENERATIONS[match[1]] if match else ""


def _hint(headers: Mapping[str, str], query: str) -> str:
    """What one of our own clients says about itself, or ""."""
    named = headers.get("x-disco-protocol", "").strip() or parse_qs(query).get("gen", [""])[-1]
    if named in _GENERATIONS:
        return _GENERATIONS[named]
    accepted = _VENDOR_TYPE.search(headers.get("accept", ""))
    return _GENERATIONS[accepted[1]] if accepted else ""
