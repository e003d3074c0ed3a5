"""`make simulate`: thousands of schedules on all cores, or one again.

    make simulate                   10 000 schedules, seeds 0 to 9 999
    make simulate SCHEDULES=500     fewer
    make simulate SEED=42           one, with its trace
    make simulate STORE=redis       on a real Redis

Ten thousand take about 23 minutes of processor time (0.14 s each), spread over all cores.

Ends with status 1 where a promise was broken; the first such schedule is printed with its trace.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

from tests.simulation.inline_redis import RedisStores
from tests.simulation.simulator import Report, run_schedule

PROGRESS_S = 0.5


class Runner:
    """Runs schedules on one kind of store; one of these per process."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._stack = ExitStack()
        self._stores: RedisStores | None = None

    def run(self, seed: int, *, with_trace: bool = False) -> Report:
        if self._store == "memory":
            return run_schedule(seed, with_trace=with_trace)
        if self._stores is None:
            self._stores = self._stack.enter_context(RedisStores())
        return run_schedule(seed, new_store=self._stores.new, with_trace=with_trace)

    def close(self) -> None:
        self._stack.close()


def _work(store: str, seeds: list[int], reports: multiprocessing.Queue[Report | None]) -> None:
    runner = Runner(store)
    try:
        for seed in seeds:
            reports.put(runner.run(seed))
    finally:
        runner.close()
        reports.put(None)


def _reports(store: str, seeds: range, processes: int) -> Iterator[Report]:
    """As they come in. Workers end when the reader does."""
    reports: multiprocessing.Queue[Report | None] = multiprocessing.Queue()
    workers = [
        multiprocessing.Process(target=_work, args=(store, list(seeds[index::processes]), reports), daemon=True)
        for index in range(processes)
    ]
    for worker in workers:
        worker.start()
    working = processes
    while working:
        report = reports.get()
        if report is None:
            working -= 1
        else:
            yield report
    for worker in workers:
        worker.join()


def simulate(store: str, seeds: range, processes: int) -> int:
    """The number of schedules in which a promise was broken."""
    started = said = time.monotonic()
    faults: Counter[str] = Counter()
    versions = counted = 0
    broken: list[Report] = []
    for done, report in enumerate(_reports(store, seeds, processes), 1):
        versions, counted = versions + report.versions, counted + report.counted
        faults.update(report.faults)
        if report.violations:
            broken.append(report)
            print(f"\nseed {report.seed}: {report.violations[0]}", flush=True)
        if time.monotonic() > said + PROGRESS_S or done == len(seeds):
            said = time.monotonic()
            print(
                f"\r{done} of {len(seeds)} schedules, {done / (said - started):.0f}/s: {versions} versions of {counted}"
                f" contributions, {sum(faults.values())} faults, {faults['KILL']} of them kills;"
                f" {len(broken)} schedules with broken promises",
                end="",
                flush=True,
            )
    print(f"\n{time.monotonic() - started:.0f} s. Faults: {', '.join(f'{k} {v}' for k, v in sorted(faults.items()))}")
    if broken:
        first = min(broken, key=lambda report: report.seed)
        print(f"{first.trace}\n\nBroken: {sorted(report.seed for report in broken)}")
        print(f"Again with: make simulate SEED={first.seed}{' STORE=redis' if store == 'redis' else ''}")
    return len(broken)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seed", type=int, help="runs this schedule alone, and prints its trace")
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first schedule")
    parser.add_argument("--store", choices=("memory", "redis"), default="memory")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.seed is None:
        seeds = range(options.first, options.first + options.schedules)
        return min(simulate(options.store, seeds, options.processes), 1)
    runner = Runner(options.store)
    try:
        report = runner.run(options.seed, with_trace=True)
    finally:
        runner.close()
    print(report.trace)
    print(f"{report.versions} versions, {report.counted} contributions counted. Broken promises: {report.violations}")
    return min(len(report.violations), 1)


if __name__ == "__main__":
    sys.exit(main())
