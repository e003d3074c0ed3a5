"""The aggregation of a task in its document: `aggregation`, snake_case or camelCase; no generation has a word for it.

    "aggregation": {"rule": "fedavgm", "momentum": 0.9,
                    "privacy": {"clipping_norm": 1, "noise_multiplier": 1.1, "delta": 1e-5, "epsilon_budget": 8}}

A number that is absent is the default of its rule. Rendered in every generation's document, whose
validators ignore keys that they do not know: so a participant can see what is done with its weights.
`privacy` here is what the server does; `privacy` inside `trainingInformation` is what clients do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from gateway.dialects.json_fields import Fields
from learning.aggregation import Aggregation, AggregationRule
from learning.privacy import CentralPrivacy
from learning.refusals import InvalidTask

_PRIVACY: Final = tuple(field.name for field in fields(CentralPrivacy))
_NUMBERS: Final = tuple(field.name for field in fields(Aggregation) if field.name not in ("rule", "privacy"))


def read_aggregation(document: object, *, path: str = "aggregation") -> Aggregation:
    """Raises InvalidTask with the JSON path."""
    given = _given(document, ("rule", "privacy", *_NUMBERS), path)
    numbers: dict[str, Any] = _read(given, _NUMBERS, path)
    if "iterations" in numbers:
        numbers["iterations"] = _whole(numbers["iterations"], f"{path}.iterations")
    if given.get("privacy") is not None:
        numbers["privacy"] = _read_privacy(given["privacy"], f"{path}.privacy")
    return Aggregation(_rule(given.get("rule"), f"{path}.rule"), **numbers)


def aggregation_document(aggregation: Aggregation) -> dict[str, object]:
    """What was said of it, and nothing that is a default."""
    document: dict[str, object] = {"rule": aggregation.rule.value}
    document |= {name: value for name in _NUMBERS if (value := getattr(aggregation, name)) is not None}
    if aggregation.privacy is not None:
        document["privacy"] = {name: getattr(aggregation.privacy, name) for name in _PRIVACY}
    return document


def _read_privacy(document: object, path: str) -> CentralPrivacy:
    numbers = _read(_given(document, _PRIVACY, path), _PRIVACY, path)
    for name in _PRIVACY:
        if name not in numbers:
            raise InvalidTask(field=f"{path}.{name}", problem="is missing")
    return CentralPrivacy(**numbers)


def _given(document: object, known: tuple[str, ...], path: str) -> dict[str, object]:
    if not isinstance(document, Mapping):
        raise InvalidTask(field=path, problem="is no object")
    given = {re.sub(r"[A-Z]", lambda capital: "_" + capital[0].lower(), str(name)): document[name] for name in document}
    for name in given:
        if name not in known:
            raise InvalidTask(field=f"{path}.{name[:64]}", problem=f"is none of {', '.join(known)}")
    return given


def _read(given: Mapping[str, object], names: tuple[str, ...], path: str) -> dict[str, float]:
    found = Fields({path: given})
    return {name: value for name in names if (value := found.number(name)) is not None}


def _whole(number: float, path: str) -> int:
    if number != int(number):
        raise InvalidTask(field=path, problem="is not a whole number")
    return int(number)


def _rule(name: object, path: str) -> AggregationRule:
    rules = {rule.value: rule for rule in AggregationRule}
    wanted = "mean" if name in (None, "") else name
    if not isinstance(wanted, str) or wanted not in rules:
        raise InvalidTask(field=path, problem=f"must be one of {', '.join(rules)}")
    return rules[wanted]
