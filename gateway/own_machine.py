"""Whether a request comes from this machine, made by this machine for itself.

A gateway that listens on loopback is still reached by others: through a proxy on
the same machine, and through pages of other sites in a browser on it, whose scripts
may send requests anywhere. Proxies say for whom they ask; browsers say for which
page (`Origin`), and what they took this machine's name to be (`Host`): where an
attacker made his own name lead here, it is that name.

What cannot be told apart from a local program is a relay that says none of this: a
tunnel of bytes, or a proxy that was told to hide. Knows no route and no setting.
"""

from __future__ import annotations

import ipaddress
import re

from starlette.datastructures import Headers

from gateway.client_address import is_relayed

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/@\[\]]+)(:[0-9]+)?", re.IGNORECASE)
_ORIGIN = re.compile(r"https?://(.*)", re.IGNORECASE)


def is_loopback(host: str) -> bool:
    """Whether a name or an address leads to this machine from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_from_here(client: str | None, headers: Headers) -> bool:
    """Judges a request by the address it came from and by its headers."""
    if client is None or not is_loopback(client):
        return False
    if is_relayed(headers):
        return False
    hosts, origins = headers.getlist("host"), headers.getlist("origin")
    return bool(hosts) and all(map(_names_loopback, hosts)) and all(map(_is_local_origin, origins))


def _names_loopback(authority: str) -> bool:
    match = _HOST.fullmatch(authority)
    return match is not None and is_loopback(match[1].strip("[]"))


def _is_local_origin(origin: str) -> bool:
    match = _ORIGIN.fullmatch(origin)
    return match is not None and _names_loopback(match[1])
