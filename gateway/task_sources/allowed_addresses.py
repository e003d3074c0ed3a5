"""Which addresses a stranger's URL may lead to: public ones, and networks that the operator names. Opens nothing."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NEVER_PUBLIC: Final = tuple(
    ipaddress.ip_network(network)
    # NAT64, local NAT64, Teredo, 6to4: inside each is an IPv4 address, which might be any. 192.0.0.0/24 is for
    # protocols, and one cloud's metadata; not every Python counts all of it as private.
    for network in ("64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "192.0.0.0/24")
)


def networks(text: str) -> tuple[Network, ...]:
    """Networks with commas between them ("127.0.0.0/8, ::1"). Raises ValueError."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def is_named(address: str, allowed: Sequence[Network]) -> bool:
    """Whether an address is in a network that the operator names."""
    found = _unmapped(address)
    return any(found in network for network in allowed)


def is_allowed(address: str, allowed: Sequence[Network]) -> bool:
    """Whether an address is public, or in a network that the operator names."""
    return is_named(address, allowed) or _is_public(_unmapped(address))


def _unmapped(address: str) -> Address:
    """An IPv4 address in the clothes of IPv6 is what it is underneath."""
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _is_public(address: Address) -> bool:
    """Not of this machine, a home, a company, a provider's inside, a link, a group; so no cloud's metadata, either."""
    if any(address in network for network in _NEVER_PUBLIC):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)
