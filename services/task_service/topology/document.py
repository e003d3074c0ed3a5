"""The JSON of a model: parsed with limits, read with types. Knows no layer.

A refusal names the place, so that a person finds it in their model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from learning.refusals import InvalidModel

MAX_JSON_BYTES = 4 * 1024 * 1024
MAX_LEVELS = 64
MAX_DIMENSION = 2**31 - 1

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def parse(text: str, what: str) -> Config:
    """The JSON object in `text`; `what` names it in refusals. Raises InvalidModel."""
    if len(text.encode()) > MAX_JSON_BYTES:
        raise InvalidModel(problem=f"{what} is larger than {MAX_JSON_BYTES} bytes")
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as broken:
        raise InvalidModel(problem=f"{what} is not JSON") from broken
    if not isinstance(document, dict):
        raise InvalidModel(problem=f"{what} is not a JSON object")
    _check_levels(document, what)
    return Config(document, what)


def _check_levels(document: object, what: str) -> None:
    level: list[object] = [document]
    for _ in range(MAX_LEVELS):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise InvalidModel(problem=f"{what} is nested more than {MAX_LEVELS} levels deep")


def _inside(value: object) -> Sequence[object]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [inner for inner in inside if isinstance(inner, dict | list)]


def is_whole(value: object) -> bool:
    """Whether a JSON value is a whole number; JavaScript does not tell 2 from 2.0, so neither do we."""
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


class Config:
    """One JSON object. An absent value and null are the same, as in TF.js; keys may be snake_case or camelCase."""

    def __init__(self, values: Mapping[str, object], where: str) -> None:
        self.where = where
        self._values = {_HUMP.sub("_", key).lower(): value for key, value in values.items()}

    def refusal(self, problem: str) -> InvalidModel:
        return InvalidModel(problem=f"{self.where}: {problem}")

    def get(self, key: str) -> object:
        return self._values.get(key)

    def has(self, key: str) -> bool:
        return self._values.get(key) is not None

    def text(self, key: str, default: str | None = None) -> str:
        value = self.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not value:
            raise self.refusal(f"{key} must be a text")
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """A text of `choices`, the first where absent, in snake_case."""
        value = _HUMP.sub("_", self.text(key, choices[0])).lower()
        if value not in choices:
            raise self.refusal(f"{key} must be one of {', '.join(choices)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.refusal(f"{key} must be true or false")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e30:
            raise self.refusal(f"{key} must be a number")
        return float(value)

    def whole(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        value = self.get(key)
        return default if value is None and default is not None else self._whole(key, value, least=least)

    def _whole(self, key: str, value: object, *, least: int) -> int:
        if not is_whole(value):
            raise self.refusal(f"{key} must be a whole number")
        assert isinstance(value, int | float)
        if not least <= value <= MAX_DIMENSION:
            raise self.refusal(f"{key} must be from {least} to {MAX_DIMENSION}")
        return int(value)

    def wholes(self, key: str, count: int, default: int | None = None, *, least: int = 1) -> tuple[int, ...]:
        """`count` whole numbers; a single one stands for all of them."""
        value = self.get(key)
        if value is None and default is not None:
            return (default,) * count
        if not isinstance(value, list):
            return (self._whole(key, value, least=least),) * count
        if len(value) != count:
            raise self.refusal(f"{key} must have {count} entries")
        return tuple(self._whole(key, entry, least=least) for entry in value)

    def pairs(self, key: str, default: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Two pairs of whole numbers from 0: from one number, two numbers, or two pairs."""
        value = self.get(key)
        if not isinstance(value, list):
            once = self.whole(key, default, least=0)
            return (once, once), (once, once)
        if len(value) != 2:
            raise self.refusal(f"{key} must have 2 entries")
        first, second = (self._pair(key, entry) for entry in value)
        return first, second

    def _pair(self, key: str, entry: object) -> tuple[int, int]:
        both = entry if isinstance(entry, list) else [entry, entry]
        if len(both) != 2:
            raise self.refusal(f"{key} must be made of pairs")
        return self._whole(key, both[0], least=0), self._whole(key, both[1], least=0)

    def shape(self, key: str) -> tuple[int | None, ...]:
        """Dimensions, null where open."""
        value = self.get(key)
        if not isinstance(value, list) or len(value) > 8:
            raise self.refusal(f"{key} must be a list of at most 8 dimensions")
        return tuple(None if entry is None else self._whole(key, entry, least=1) for entry in value)

    def inner(self, key: str, where: str | None = None) -> Config:
        value = self.get(key)
        if not isinstance(value, dict):
            raise self.refusal(f"{key} must be an object")
        return Config(value, where or self.where)

    def list(self, key: str) -> list[object]:
        value = self.get(key)
        if not isinstance(value, list):
            raise self.refusal(f"{key} must be a list")
        return value
