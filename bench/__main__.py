"""`make bench`: measures, and prints tables in Markdown.

make bench                                         everything, in less than twelve minutes
make bench ARGS="--write docs/benchmarks.md"       the same, and puts it into that page, between its markers
make bench ARGS="--quick"                          every kind of row once, shortly
make bench ARGS="--rows 'float32 10 × 1 M'"        rows whose name contains a text

SIGINT and SIGTERM end it, and what it started with it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from bench import memory, report, serving, uploads
from bench.rows import ROWS, measure

SECONDS, QUICK_SECONDS = 6.0, 2.0
REPEATS = 3
QUICK_ROWS = ("float32 2 × 10 k", "float32 10 × 1 M", "byte array 10 × 10 k")
QUICK_ROUNDS = 100


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description="Loads a system of its own and says what it did.")
    parser.add_argument("--quick", action="store_true", help="a few rows, once, shortly")
    parser.add_argument("--rows", help="only rows whose dialect and name contain this text")
    parser.add_argument("--seconds", type=float, help="how long each row is loaded")
    parser.add_argument("--repeats", type=int, help="how often; the median of the rounds per second counts")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the results into a page, between its markers")
    arguments = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("What processes use is read from /proc: this needs Linux.")
    page = report.Page(arguments.write) if arguments.write else None
    try:
        said = uvloop.run(_run(arguments))
    except asyncio.CancelledError:
        sys.exit("Stopped; nothing was written." if page else "Stopped.")
    if page:
        page.write(said)


async def _run(arguments: argparse.Namespace) -> str:
    said: list[str] = []

    def say(*lines: str) -> None:
        said.extend(lines)
        print(*lines, sep="\n", flush=True)

    with _ended_by_signals():
        say(report.machine(), report.floors_table())
        await _rows(arguments, say)
        if not arguments.rows:
            await _others(arguments, say)
    return "\n".join(said)


async def _rows(arguments: argparse.Namespace, say: report.Say) -> None:
    repeats = arguments.repeats or (1 if arguments.quick else REPEATS)
    say(report.ROWS_HEADER)
    details = []
    for row in ROWS:
        name = f"{row.dialect} {row.name}"
        if (arguments.rows and arguments.rows not in name) or (arguments.quick and name not in QUICK_ROWS):
            continue
        runs = [await measure(row, seconds=_seconds(arguments)) for _ in range(repeats)]
        result = sorted(runs, key=lambda run: run.rounds_per_s)[len(runs) // 2]
        say(report.row_line(result, spread=[run.rounds_per_s for run in runs]))
        details.append(report.cost_line(result))
    say("", report.COST_HEADER, *details, "")


async def _others(arguments: argparse.Namespace, say: report.Say) -> None:
    say(report.uploads_line(await uploads.measure(seconds=_seconds(arguments))), "", report.MEMORY_HEADER)
    say(report.large_model_line(await memory.large_model()))
    say(*map(report.participants_line, await memory.participants(few_only=arguments.quick)))
    say(report.rounds_line(*await memory.rounds(number=QUICK_ROUNDS if arguments.quick else memory.ROUNDS)), "")
    if serving.is_possible():
        say(report.serving_line(await asyncio.to_thread(serving.measure, seconds=_seconds(arguments))))
    else:
        say("Models over HTTP were not measured: that takes wrk and nginx (apt-get install wrk nginx-light).")


def _seconds(arguments: argparse.Namespace) -> float:
    return float(arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS))


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM cancel the running task while the block runs; what it started then ends in its `finally`."""
    loop, running = asyncio.get_running_loop(), asyncio.current_task()
    assert running is not None
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, running.cancel)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


if __name__ == "__main__":
    main()
