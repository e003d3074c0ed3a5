"""Named policies: the ways of training that people ask for by name, as numbers. Knows nothing beyond `learning.policy`.

    synchronous            every round waits for everybody who is present, for ten minutes at most; nothing late counts
    semi-synchronous       a round closes with everybody who is present, or ten seconds after its first
                           contribution; who is one round late counts half: the policy of a task that names none
    buffered-asynchronous  every ten contributions make a version, from whoever comes, and nobody is waited for:
                           FedBuff (arXiv 2106.06639), whose weight 1/√(1 + rounds late) is here an integer of 8ths

A preset is where numbers come from, and nothing that is kept: what a task states, and
what a round shows, are the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any

from learning.policy import Policy

_BUFFERED_STALENESS = tuple(round(8 / math.sqrt(1 + late)) for late in range(16))


class Preset(Enum):
    """The name of a policy."""

    SYNCHRONOUS = "synchronous"
    SEMI_SYNCHRONOUS = "semi-synchronous"
    BUFFERED_ASYNCHRONOUS = "buffered-asynchronous"


NUMBERS: Mapping[Preset, Mapping[str, Any]] = MappingProxyType(
    {
        Preset.SYNCHRONOUS: {"deadline_s": 600.0, "staleness_weights": (1,)},
        Preset.SEMI_SYNCHRONOUS: {},
        Preset.BUFFERED_ASYNCHRONOUS: {
            "quorum_share": None,
            "quorum_count": 10,
            "deadline_s": 60.0,
            "staleness_weights": _BUFFERED_STALENESS,
        },
    }
)
"""What each preset sets; the rest is what `Policy` says."""


def policy_of(preset: Preset, **numbers: Any) -> Policy:
    """The policy of a preset with some numbers of one's own; a quorum replaces the preset's. Raises InvalidPolicy."""
    settings = dict(NUMBERS[preset])
    if numbers.get("quorum_count") is not None:
        settings["quorum_share"] = None
    if numbers.get("quorum_share") is not None:
        settings["quorum_count"] = None
    return Policy(**(settings | numbers))
