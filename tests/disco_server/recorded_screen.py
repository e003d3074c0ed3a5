"""A screen whose text a test can read."""

from __future__ import annotations

import io

from rich.console import Console

from disco_server.screen import Screen


class RecordedScreen(Screen):
    """Prints into a string, without colours, as into a file."""

    def __init__(self, *, json_lines: bool = False) -> None:
        self._output = io.StringIO()
        super().__init__(Console(file=self._output, width=120), json_lines=json_lines)

    @property
    def text(self) -> str:
        return self._output.getvalue()

    def sentences(self) -> list[str]:
        """What the launcher itself said, in order."""
        return [line.partition("│ ")[2] for line in self.text.splitlines() if line.startswith("disco ")]
