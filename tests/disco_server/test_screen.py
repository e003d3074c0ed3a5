"""What is printed, to the byte."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

from rich.console import Console

from disco_server.screen import Screen, TaskRow
from tests.disco_server.recorded_screen import RecordedScreen

BROKEN_PIPE = """
import os, sys
from rich.console import Console
from disco_server.screen import Screen
screen = Screen(Console())
screen.say("first")
sys.stdin.readline()
for _ in range(3):
    screen.say("nobody reads this")
print("still running", file=sys.stderr)
"""


def test_lines_are_named_and_keep_their_text() -> None:
    screen = RecordedScreen()
    screen.say("Starting.")
    screen.line("gateway", "[bold]not markup[/bold] 127.0.0.1:8080 " + "long " * 40)
    assert screen.text.splitlines() == [
        "disco        │ Starting.",
        ("gateway      │ [bold]not markup[/bold] 127.0.0.1:8080 " + "long " * 40).rstrip(" ") + " ",
    ]


def test_names_have_colours_on_a_terminal_each_its_own() -> None:
    output = io.StringIO()
    screen = Screen(Console(file=output, force_terminal=True, color_system="standard", width=120))
    screen.line("gateway", "a")
    screen.line("aggregator", "b")
    screen.line("gateway", "c")
    first, second, third = output.getvalue().splitlines()
    assert first.startswith("\x1b[36mgateway")
    assert second.startswith("\x1b[35maggregator")
    assert third.startswith("\x1b[36mgateway")


def test_colours_of_a_process_stay_and_nothing_else_moves_the_terminal() -> None:
    output = io.StringIO()
    screen = Screen(Console(file=output, force_terminal=True, color_system="standard", width=120))
    screen.line("gateway", "\x1b[31mred\x1b[0m")
    screen.line("gateway", "\x1b[2J\x1b]0;title\x07\x1bc\a\b\rall gone?")
    red, harmless = output.getvalue().splitlines()
    assert red == "\x1b[36mgateway      \x1b[0m\x1b[2m│ \x1b[0m\x1b[31mred\x1b[0m"
    assert harmless == "\x1b[36mgateway      \x1b[0m\x1b[2m│ \x1b[0m0;title��c���all gone?"


def test_json_lines_pass_untouched_and_sentences_are_json() -> None:
    screen = RecordedScreen(json_lines=True)
    screen.say('It said "no".')
    screen.line("gateway", '{"event": "server.started", "long": "' + "x" * 300 + '"}')
    screen.tasks("http://127.0.0.1:8080/", [TaskRow("titanic", "Titanic", "federated")])
    first, second = screen.text.splitlines()
    assert json.loads(first) == {"process": "disco-server", "event": 'It said "no".'}
    assert json.loads(second) == {"event": "server.started", "long": "x" * 300}


def test_table_shows_every_task_with_the_address_of_clients() -> None:
    screen = RecordedScreen()
    screen.tasks(
        "http://127.0.0.1:8080/", [TaskRow("titanic", "Who [survived]?", "federated"), TaskRow("a", "b", "local")]
    )
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in screen.text.splitlines() if line.startswith("│")
    ]
    assert rows == [
        ["titanic", "Who [survived]?", "federated", "http://127.0.0.1:8080/"],
        ["a", "b", "local", "http://127.0.0.1:8080/"],
    ]


def test_reader_that_goes_away_does_not_end_the_launcher() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BROKEN_PIPE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    ) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "disco        │ first\n"
        launcher.stdout.close()
        _, errors = launcher.communicate("go on\n")
    assert (launcher.returncode, errors) == (0, "still running\n")
