"""Reads the policy in an uploaded task: `policy`, named as in `GET /tasks/{task}/round`, in snake_case or camelCase.

    "policy": {"preset": "buffered-asynchronous", "quorum_count": 20, "max_samples": 500}

What is absent is what the preset says; only the smallest number of participants may be said in the clients' own words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.dialects.json_fields import Fields
from learning.norm_gate import NormGate
from learning.policy import Policy
from learning.presets import Preset, policy_of
from learning.refusals import InvalidPolicy, InvalidTask

_WHOLE: Final = ("min_participants", "quorum_count", "max_total_weight", "max_samples")
_NUMBERS: Final = {"quorum_share": ("quorum_share",), "deadline_s": ("deadline_s", "deadline")}
_KNOWN: Final = ("preset", "staleness_weights", *_WHOLE, *(name for names in _NUMBERS.values() for name in names))


def read_policy(document: object, *, min_participants: int, path: str = "policy") -> Policy:
    """`min_participants` is what holds where the policy does not say. Raises InvalidTask with the JSON path."""
    if not (document is None or isinstance(document, Mapping)):
        raise InvalidTask(field=path, problem="is no object")
    given = {_snake_case(str(name)): value for name, value in (document or {}).items()}
    for name in given:
        if name not in _KNOWN:
            raise InvalidTask(field=f"{path}.{name[:64]}", problem="is nothing that a policy has")
    fields = Fields({path: given})
    numbers: dict[str, Any] = {"min_participants": min_participants}
    numbers |= {name: _exact(fields, name, path) for name in _WHOLE if fields.find(name) is not None}
    numbers |= {name: fields.number(*names) for name, names in _NUMBERS.items() if fields.find(*names) is not None}
    if "staleness_weights" in given:
        numbers["staleness_weights"] = _weights(given["staleness_weights"], f"{path}.staleness_weights")
    try:
        return policy_of(_preset(fields, path), **numbers)
    except InvalidPolicy as refusal:
        raise InvalidTask(field=f"{path}.{refusal.variables['field']}", problem=refusal.variables["problem"]) from None


def read_norm_gate(document: object, *, path: str = "norm_gate") -> NormGate | None:
    """`{"quantile": 0.5, "factor": 10, "min_history": 20}`, all of them optional; None where there is none."""
    if document is None:
        return None
    if not isinstance(document, Mapping):
        raise InvalidTask(field=path, problem="is no object")
    fields = Fields({path: {_snake_case(str(name)): value for name, value in document.items()}})
    numbers: dict[str, Any] = {name: fields.number(name) for name in ("quantile", "factor")}
    numbers["min_history"] = fields.whole("min_history")
    return NormGate(**{name: number for name, number in numbers.items() if number is not None})


def _preset(fields: Fields, path: str) -> Preset:
    name = fields.text("preset").replace("_", "-").lower() or Preset.SEMI_SYNCHRONOUS.value
    if name not in {preset.value for preset in Preset}:
        names = ", ".join(preset.value for preset in Preset)
        raise InvalidTask(field=f"{path}.preset", problem=f"must be one of {names}")
    return Preset(name)


def _exact(fields: Fields, name: str, path: str) -> int:
    """Beyond what other whole numbers of a task may be: a cap on weights goes up to 2^40."""
    number = fields.number(name)
    if number is None or number != int(number) or number < 0:
        raise InvalidTask(field=f"{path}.{name}", problem="is not a whole number")
    return int(number)


def _weights(value: object, path: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(weight) is int for weight in value):
        raise InvalidTask(field=path, problem="is not a list of whole numbers")
    return tuple(value)


def _snake_case(name: str) -> str:
    return re.sub(r"[A-Z]", lambda capital: "_" + capital.group().lower(), name)
