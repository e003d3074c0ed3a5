"""Who asks: the address of a client, also where a proxy asks for it.

Only what the operator trusts to say for whom it asks is believed (DISCO_FORWARDED_FOR). Knows no route.
"""

from __future__ import annotations

import ipaddress
import re

from starlette.datastructures import Headers

_RELAYED = re.compile(r"forwarded|via|x-real-ip|x-forwarded-.*")


def client_address(peer: str, headers: Headers, *, trusts_forwarded_for: bool) -> str:
    """The address, and of IPv6 the network: one household has 2^64 of those. Empty where there is none."""
    if not trusts_forwarded_for:
        return _network_of(peer)
    # What the proxy itself added is the last; whoever asks may have written all the others.
    forwarded = ",".join(headers.getlist("x-forwarded-for")).rpartition(",")[2].strip()
    return _network_of(forwarded or peer)


def is_relayed(headers: Headers) -> bool:
    """Whether a proxy says that it asks for somebody else. One that hides it is not found out."""
    return any(_RELAYED.fullmatch(name) for name in headers)


def _network_of(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
