"""Every dialect by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.dialects.dialect import Dialect, Rendering
from gateway.dialects.g21 import G21
from gateway.dialects.g22 import G22
from gateway.dialects.g30 import G30
from gateway.dialects.gdv import GDV
from gateway.dialects.renderings import SUPERSET, TFJS

DIALECTS: Final[Mapping[str, Dialect]] = {dialect.name: dialect for dialect in (G21(), G22(), G30(), GDV())}
"""Those that can be spoken over a socket: every name that `negotiate_socket` can answer."""

RENDERINGS: Final[Mapping[str, Rendering]] = {**DIALECTS, TFJS.name: TFJS, SUPERSET.name: SUPERSET}
"""Those that have documents over HTTP: every name that `negotiate_http` can answer."""
