"""How one client numbers the rounds, and what its numbers mean.

A client counts rounds on its own: from 0, and afterwards the number of the last
answer it adopted. Most adopt an answer only where that number is greater than
their own. So a round travels under a *label*, which is the round's number unless
the client comes from a server that was further on; then all labels are moved up
by an offset. Label 0, before anything was adopted, means the round the client
found when it came.
"""

from __future__ import annotations

REMEMBERED = 64


class Labels:
    """Which label means which round for one client. `base` is the round whose version it trains from."""

    def __init__(self) -> None:
        self.base = 0
        self._label = 0
        self._offset = 0
        self._current: int | None = None
        self._meaning: dict[int, int] = {}

    def see(self, current: int) -> None:
        """Takes note of the number of the open round."""
        if not self._meaning:
            self.base = self._meaning[0] = current
        elif current < self.base:
            # The data directory was replaced by an older one: what is next must be news to the client all the same.
            self._restart_at(current)
        self._current = current

    def label_of(self, number: int) -> int:
        return max(number + self._offset, 0)

    def peek(self, label: int) -> int:
        """The round that a label means, for what does not depend on it being exact."""
        return self._meaning.get(label, max(label - self._offset, 0))

    def round_of(self, label: int) -> int:
        """The round from whose version a contribution under `label` was trained."""
        assert self._current is not None, "labels mean nothing before the first round was seen"
        number = self.peek(label)
        if label not in self._meaning and number > self._current:
            self._label = label
            self._restart_at(self._current)
            return self._current
        if label >= self._label:
            self._remember(label, number)
        return number

    def give_out(self, version: int) -> int:
        """The label under which the client is told `version`; its own where the version is no news to it."""
        if version > self.base:
            self._remember(self.label_of(version), version)
        return self._label

    def adopt(self, version: int) -> int:
        """The label under which a client is told `version` that adopts whatever it is told: never a smaller one."""
        self._remember(max(self._label, self.label_of(version)), version)
        return self._label

    def _restart_at(self, number: int) -> None:
        self._offset = self._label - number
        self._remember(self._label, number)

    def _remember(self, label: int, number: int) -> None:
        self._label, self.base = label, number
        self._meaning.pop(label, None)
        self._meaning[label] = number
        if len(self._meaning) > REMEMBERED:
            del self._meaning[next(iter(self._meaning))]
