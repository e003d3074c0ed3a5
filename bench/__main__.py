"""`make bench`: measures, and prints tables in Markdown for docs/benchmarks.md.

make bench                                    everything, in less than ten minutes
make bench ARGS="--quick"                     every kind of row once, shortly
make bench ARGS="--rows 'float32 10 × 1 M'"   rows whose name contains a text
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import uvloop

from bench import report, serving, uploads
from bench.rows import ROWS, measure

SECONDS, QUICK_SECONDS = 6.0, 2.0
REPEATS = 3
QUICK_ROWS = ("float32 2 × 10 k", "float32 10 × 1 M", "byte array 10 × 10 k")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description="Loads a system of its own and says what it did.")
    parser.add_argument("--quick", action="store_true", help="a few rows, once, shortly")
    parser.add_argument("--rows", help="only rows whose dialect and name contain this text")
    parser.add_argument("--seconds", type=float, help="how long each row is loaded")
    parser.add_argument("--repeats", type=int, help="how often; the median of the rounds per second counts")
    arguments = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("What processes use is read from /proc: this needs Linux.")
    seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
    uvloop.run(_run(arguments, seconds=seconds))


async def _run(arguments: argparse.Namespace, *, seconds: float) -> None:
    repeats = arguments.repeats or (1 if arguments.quick else REPEATS)
    say(report.machine())
    say(report.floors_table())
    say(report.ROWS_HEADER)
    details = []
    for row in ROWS:
        name = f"{row.dialect} {row.name}"
        if (arguments.rows and arguments.rows not in name) or (arguments.quick and name not in QUICK_ROWS):
            continue
        runs = [await measure(row, seconds=seconds) for _ in range(repeats)]
        result = sorted(runs, key=lambda run: run.rounds_per_s)[len(runs) // 2]
        say(report.row_line(result, spread=[run.rounds_per_s for run in runs]))
        details.append(report.cost_line(result))
    say("", report.COST_HEADER, *details, "")
    if not arguments.rows:
        say(report.uploads_line(await uploads.measure(seconds=seconds)))
        if serving.is_possible():
            say(report.serving_line(await asyncio.to_thread(serving.measure, seconds=seconds)))
        else:
            say("Models over HTTP were not measured: that takes wrk and nginx (apt-get install wrk nginx-light).")


def say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


if __name__ == "__main__":
    main()
