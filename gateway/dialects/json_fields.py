"""Reads JSON objects that people and many generations of programs have written.

A `Fields` looks for a value under several names in several objects, takes null
and empty texts for absent, turns kindred spellings into the wanted type, and says the JSON path
of what it cannot take: where a list of problems is given, into that list, and goes
on with what an absent value would be. Knows nothing of tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from learning.refusals import InvalidTask

MAX_WHOLE_NUMBER = 2**31 - 1


class _Found(NamedTuple):
    path: str
    value: object


class Fields:
    """The objects to look in, first one first, each with its JSON path ("" for the document itself)."""

    def __init__(self, places: Mapping[str, object], problems: list[tuple[str, str]] | None = None) -> None:
        self._problems = problems
        self._first = next(iter(places), "")
        self._places = [(path, place) for path, place in places.items() if isinstance(place, Mapping)]

    def find(self, *names: str) -> object:
        """The first value that is there under one of the names, of any type; None where there is none."""
        found = self._find(names)
        return found.value if found else None

    def names(self, *names: str) -> bool:
        """Whether one of the names is there at all, with whatever value."""
        return any(name in place for _, place in self._places for name in names)

    def text(self, *names: str) -> str:
        """A text; a number is written out. Empty where absent."""
        found = self._find(names)
        return self._text(found) if found else ""

    def texts(self, *names: str) -> tuple[str, ...]:
        """A list of texts; a single text counts as one, or as several between commas."""
        found = self._find(names)
        if found is None:
            return ()
        if isinstance(found.value, str):
            return tuple(part.strip() for part in found.value.split(",") if part.strip())
        items = enumerate(self._list(found))
        return tuple(self._text(_Found(f"{found.path}[{index}]", item)) for index, item in items)

    def objects(self, *names: str) -> tuple[Fields, ...]:
        """A list of objects."""
        found = self._find(names)
        if found is None:
            return ()
        paths = {f"{found.path}[{index}]": item for index, item in enumerate(self._list(found))}
        for path, item in paths.items():
            if not isinstance(item, Mapping):
                self._refuse(path, "is no object")
        return tuple(Fields({path: item}, self._problems) for path, item in paths.items())

    def number(self, *names: str) -> float | None:
        """A finite number, also written as a text. None where absent."""
        found = self._find(names)
        if found is None:
            return None
        value = found.value
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                number = float(value)
            except (ValueError, OverflowError):
                number = math.nan
            if math.isfinite(number):
                return number
        self._refuse(found.path, "is not a number")
        return None

    def whole(self, *names: str) -> int | None:
        """A whole number from 0 to 2^31 - 1. None where absent."""
        number = self.number(*names)
        if number is None:
            return None
        if number != int(number) or not 0 <= number <= MAX_WHOLE_NUMBER:
            self._refuse(self.path(*names), "is not a whole number from 0 to 2147483647")
            return None
        return int(number)

    def flag(self, *names: str) -> bool:
        """Whether something is true; false where absent."""
        found = self._find(names)
        if found is None:
            return False
        if found.value in (True, False, "true", "false"):
            return found.value in (True, "true")
        self._refuse(found.path, "is neither true nor false")
        return False

    def path(self, *names: str) -> str:
        """Where the value was found; where it would be, if it is absent."""
        found = self._find(names)
        if found:
            return found.path
        return _join(self._first, names[0])

    def _find(self, names: tuple[str, ...]) -> _Found | None:
        for path, place in self._places:
            for name in names:
                if (value := place.get(name)) not in (None, ""):
                    return _Found(_join(path, name), value)
        return None

    def _text(self, found: _Found) -> str:
        value = found.value
        if isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            self._refuse(found.path, "is not a text")
            return ""
        return str(int(value)) if value == int(value) else str(value)

    def _list(self, found: _Found) -> list[object]:
        if isinstance(found.value, list):
            return found.value
        self._refuse(found.path, "is not a list")
        return []

    def _refuse(self, path: str, problem: str) -> None:
        if self._problems is None:
            raise InvalidTask(field=path, problem=problem)
        self._problems.append((path, problem))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
