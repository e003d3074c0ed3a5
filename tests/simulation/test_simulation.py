"""Every promise holds in every schedule; the same seed is the same schedule; a broken promise is found.

`make simulate` runs thousands of schedules, and `make simulate SEED=…` one of them with its trace.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from learning import federated
from roundstore.memory_store import MemoryRoundStore
from roundstore.store import RoundStore
from services.aggregator.committer import Committer
from services.aggregator.open_sums import OpenSum
from tests.simulation.inline_redis import RedisStores
from tests.simulation.simulator import Report, run_schedule
from tests.simulation.world import Fault

SEEDS = range(240)
SEEDS_AT_ONCE = 40
SEEDS_ON_REDIS = range(24)


def assert_kept(report: Report) -> None:
    assert not report.violations, f"make simulate SEED={report.seed}\n{report.trace}"


@pytest.mark.parametrize("first", range(SEEDS.start, SEEDS.stop, SEEDS_AT_ONCE))
def test_every_promise_holds_whatever_goes_wrong(first: int) -> None:
    faults: Counter[str] = Counter()
    versions = counted = 0
    for seed in range(first, first + SEEDS_AT_ONCE):
        report = run_schedule(seed)
        assert_kept(report)
        faults.update(report.faults)
        versions, counted = versions + report.versions, counted + report.counted
    # Not one of them was a schedule in which nothing happens.
    assert set(faults) == {fault.name for fault in Fault}
    assert versions > SEEDS_AT_ONCE
    assert counted > 2 * SEEDS_AT_ONCE


def test_every_promise_holds_in_a_schedule_that_nobody_has_seen(capsys: pytest.CaptureFixture[str]) -> None:
    seed = secrets.randbelow(2**32)
    with capsys.disabled():
        print(f" make simulate SEED={seed}", end=" ")
    assert_kept(run_schedule(seed))


def test_every_promise_holds_on_a_real_redis() -> None:
    with RedisStores() as stores:
        for seed in SEEDS_ON_REDIS:
            report = run_schedule(seed, new_store=stores.new)
            assert not report.violations, f"make simulate SEED={seed} STORE=redis\n{report.trace}"


def test_a_seed_is_the_whole_schedule() -> None:
    # Another process, in which every hash of a text is another one.
    command = [sys.executable, "-m", "tests.simulation", "--seed", "3"]
    runs = [
        subprocess.run(
            command,
            env={**os.environ, "PYTHONHASHSEED": str(number)},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in (1, 2)
    ]
    assert runs[0] == runs[1]
    assert run_schedule(3, with_trace=True).trace in runs[0]


# What a schedule would say if the aggregator were another one.


def found(seeds: range = SEEDS) -> list[str]:
    """The broken promises of the first schedule in which any is broken."""
    reports = (run_schedule(seed) for seed in seeds)
    return next((report.violations for report in reports if report.violations), [])


def test_a_sum_that_is_trusted_after_its_commit_failed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # In the code, the attribute is set to None where a commit's outcome is unknown; here it stays.
    class Trusting(Committer):
        def __setattr__(self, name: str, value: object) -> None:
            if name != "_sum" or value is not None or getattr(self, "_sum", None) is None:
                super().__setattr__(name, value)

    monkeypatch.setattr("services.aggregator.intake.Committer", Trusting)
    assert found()


def test_a_slot_that_is_written_over_while_its_pointer_stands_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenSum, "committed", lambda self: None)
    assert found()


def test_a_refused_member_that_stays_in_the_sum_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def leave_in(self: OpenSum, group: object) -> None:
        pass

    monkeypatch.setattr(OpenSum, "take_out", leave_in)
    assert found()


def test_a_closer_that_dies_and_is_not_followed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    is_due = federated.is_due

    def never_again(status: federated.RoundStatus, now: float) -> bool:
        return status.state is federated.State.COLLECTING and is_due(status, now)

    monkeypatch.setattr("services.aggregator.coordinator.is_due", never_again)
    assert any("for ever" in promise for promise in found())


def test_an_acknowledgement_that_is_forgotten_is_found() -> None:
    class Forgetful(MemoryRoundStore):
        """Forgets who was admitted to rounds that are over."""

        async def find_admission(self, *args: object, **kwargs: object) -> list[federated.Admission]:
            return []

    def new_store() -> RoundStore:
        return Forgetful()

    reports = (run_schedule(seed, new_store=new_store) for seed in SEEDS)
    broken = next(report for report in reports if report.violations)
    assert f"seed {broken.seed}" in broken.trace
    assert " dies" in broken.trace or "lose the" in broken.trace
