"""Every dialect by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.dialects.dialect import Dialect, Rendering
from gateway.dialects.g21 import G21
from gateway.dialects.renderings import G22, G30, GDV, SUPERSET, TFJS

DIALECTS: Final[Mapping[str, Dialect]] = {"g21": G21()}
"""Those that can be spoken over a socket. A name that is missing here is refused at the upgrade."""

RENDERINGS: Final[Mapping[str, Rendering]] = {
    **DIALECTS,
    **{rendering.name: rendering for rendering in (G22, G30, GDV, TFJS, SUPERSET)},
}
"""Those that have documents over HTTP: every name that `negotiate_http` can answer."""
