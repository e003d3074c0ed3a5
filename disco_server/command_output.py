"""How the commands about tasks and models speak: tables or JSON, progress, one sentence for what went wrong.

Exit codes: 0 done · 1 refused, or a file is not valid · 2 wrong usage · 3 no server answers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

EXIT_CODES = "Exit codes: 0 done, 1 refused or not valid, 2 wrong usage, 3 no server answers."
REFUSED, UNREACHABLE = 1, 3


class Output:
    """One command's; `as_json` makes everything on standard output one JSON document."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def tell(self, document: Any, human: Callable[[Console], None]) -> None:
        """The result."""
        if self.as_json:
            typer.echo(json.dumps(document, ensure_ascii=False))
        else:
            human(Console(highlight=False, soft_wrap=True))

    def say(self, sentence: str, **document: Any) -> None:
        """A result that is one sentence."""
        self.tell({**document, "sentence": sentence}, lambda console: console.print(sentence, markup=False))

    def fail(self, sentence: str, errors: list[tuple[str, str]] | None = None, *, code: int = REFUSED) -> typer.Exit:
        """Says what went wrong; raise what it returns."""
        errors = errors or []
        if self.as_json:
            listed = [{"path": path, "detail": detail} for path, detail in errors]
            typer.echo(json.dumps({"error": sentence, "errors": listed}, ensure_ascii=False))
        else:
            typer.echo(sentence, err=True)
            if len(errors) > 1:
                for path, detail in errors:
                    typer.echo(f"  {path}: {detail}", err=True)
        return typer.Exit(code)

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A bar on standard error, where that is a terminal."""
        console = Console(stderr=True)
        if self.as_json or not sys.stderr.isatty():
            yield lambda done, total: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        with Progress(*columns, console=console, transient=True) as bars:
            bar = bars.add_task(what, total=None)
            yield lambda done, total: bars.update(bar, completed=done, total=total or None)
