"""What becomes of a task file: whether this server takes it, and which generations of clients take it as it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console

from disco_server.client_rules import GENERATIONS, Problem, problems_of
from gateway.dialects.task_uploads import parse_task
from learning.refusals import InvalidId, InvalidTask


@dataclass(frozen=True, slots=True)
class Validation:
    """Pairs of a JSON path and what is wrong there."""

    server: list[Problem]
    """Why this server refuses it; empty: it takes it."""
    clients: dict[str, list[Problem]]
    """By dialect, why clients of a generation reject the file as it stands."""

    def document(self) -> dict[str, Any]:
        return {
            "valid": not self.server,
            "errors": _listed(self.server),
            "clients": {
                GENERATIONS[dialect]: {"accepts": not problems, "errors": _listed(problems)}
                for dialect, problems in self.clients.items()
            },
        }

    def print_to(self, console: Console) -> None:
        if self.server:
            console.print("This server refuses the task:")
        else:
            console.print("This server takes the task, and serves it to every generation in words that it accepts.")
        _print(console, self.server)
        for dialect, problems in self.clients.items():
            verdict = "reject the file as it stands:" if problems else "accept the file as it stands."
            console.print(f"Clients of generation {GENERATIONS[dialect]} {verdict}")
            _print(console, problems)


def validate_document(document: object) -> Validation:
    """Looks at a task document; asks nobody."""
    server: list[Problem] = []
    try:
        parse_task(document)
    except InvalidTask as refusal:
        server = list(refusal.problems)
    except InvalidId as refusal:
        server = [(refusal.variables["path"], str(refusal))]
    return Validation(server, {dialect: problems_of(document, dialect) for dialect in GENERATIONS})


def _listed(problems: list[Problem]) -> list[dict[str, str]]:
    return [{"path": path, "detail": detail} for path, detail in problems]


def _print(console: Console, problems: list[Problem]) -> None:
    for path, detail in problems:
        console.print(f"  {path or 'the file'}: {detail}", markup=False)
