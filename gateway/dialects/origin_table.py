"""The table of web applications whose generation the operator knows: `https://app.example=g22,http://localhost:8081=g30`.

A browser names the page that asks as `Origin`, on every upgrade and every request across origins, in the one spelling
of RFC 6454 (section 6.2): scheme, host in lower case, and the port unless it is the scheme's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from learning.task import PINNED_DIALECTS

_ORIGIN: Final = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_OWN_PORTS: Final = {"http": "80", "https": "443"}


def origin_table(text: str) -> Mapping[str, str]:
    """Dialects by origin, as browsers spell those. Raises ValueError with what is wrong, as the end of a sentence."""
    found: dict[str, str] = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        origin, equals, dialect = map(str.strip, entry.rpartition("="))
        if not equals or dialect not in PINNED_DIALECTS:
            raise ValueError(f"{entry!r} does not end in =g21, =g22, =g30 or =gdv")
        spelled = _as_browsers_do(origin)
        if spelled in found:
            raise ValueError(f"{spelled} is there twice")
        found[spelled] = dialect
    return found


def _as_browsers_do(origin: str) -> str:
    match = _ORIGIN.fullmatch(origin.lower())
    if match is None or (match[3] and not 0 < int(match[3]) < 65536):
        raise ValueError(f"{origin!r} is no origin: scheme, host and port of the page alone, https://app.example:8443")
    scheme, host, port = match.groups()
    return f"{scheme}://{host}" if port in (None, _OWN_PORTS[scheme]) else f"{scheme}://{host}:{int(port)}"
