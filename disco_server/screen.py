"""What people see while the system runs: sentences of the launcher, lines of the processes, the table of tasks.

On a terminal every line starts with the coloured name of its process. Where logs
are to be JSON, the lines of the processes pass untouched and the sentences become
JSON too, so that a collector can read all of it. Knows no process.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

NAME_WIDTH = 12
COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red", "bright_cyan", "bright_magenta")
ESCAPE = 27
_CONTROLS = {code: "�" for code in (*range(32), 127) if code not in (ord("\t"), ESCAPE)}


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One line of the table of tasks."""

    task_id: str
    title: str
    scheme: str


class Screen:
    """Prints. A reader that goes away is no reason to stop: from then on nothing is printed."""

    def __init__(self, console: Console, *, json_lines: bool = False) -> None:
        self._console = console
        self._json_lines = json_lines
        self._colours: dict[str, str] = {}
        self._gone = False

    def say(self, sentence: str) -> None:
        """One sentence of the launcher."""
        if self._json_lines:
            self._print(Text(json.dumps({"process": "disco-server", "event": sentence})))
        else:
            self._print(_named("disco", "bold", Text(sentence)))

    def line(self, process: str, line: str) -> None:
        """One line that a process wrote."""
        if self._json_lines:
            self._print(Text(line))
            return
        colour = self._colours.setdefault(process, COLOURS[len(self._colours) % len(COLOURS)])
        self._print(_named(process, colour, _harmless(line)))

    def tasks(self, address: str, rows: Iterable[TaskRow]) -> None:
        """The table of tasks, with the address that clients are given."""
        if self._json_lines:
            return
        table = Table("Task", "Title", "Scheme", Column("Clients connect to", no_wrap=True))
        for row in rows:
            table.add_row(Text(row.task_id), Text(row.title), Text(row.scheme), Text(address))
        self._print(table)

    def _print(self, what: Text | Table) -> None:
        if self._gone:
            return
        try:
            self._console.print(what, soft_wrap=isinstance(what, Text), highlight=False)
        except SystemExit:  # what rich makes of a broken pipe, when it has sent all later output nowhere
            self._gone = True


def _named(name: str, style: str, text: Text) -> Text:
    return Text.assemble((f"{name:<{NAME_WIDTH}} ", style), ("│ ", "dim"), text)


def _harmless(line: str) -> Text:
    """The line with its colours, and nothing else that moves a terminal: names in logs come from strangers."""
    text = Text.from_ansi(line.translate(_CONTROLS))
    return Text(text.plain.replace(chr(ESCAPE), "�")) if chr(ESCAPE) in text.plain else text
