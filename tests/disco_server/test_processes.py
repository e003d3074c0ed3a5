"""The supervisor over small stand-ins: real processes that do next to nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from disco_server.cannot_start import CannotStart
from disco_server.processes import Backoff, ProcessPlan, Supervisor
from tests.disco_server.recorded_screen import RecordedScreen
from tests.waiting import eventually

STAYS = """
import os, pathlib, signal, sys
marker = pathlib.Path(sys.argv[1])
def leave(*_):
    with (marker.parent / "order").open("a") as order:
        order.write(marker.name + "\\n")
    sys.exit(0)
def fail(*_):
    print("out of order", flush=True)
    os._exit(5)
signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGUSR1, fail)
print("hello from", marker.name, flush=True)
marker.write_text(str(os.getpid()))
while True:
    signal.pause()
"""
DEAF = STAYS.replace("signal.signal(signal.SIGTERM, leave)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
QUICK = Backoff(first_s=0.01, most_s=0.02)


def plan(marker: Path, program: str = STAYS, *, grace_s: float = 10.0, shown: bool = True) -> ProcessPlan:
    """A process that is healthy as soon as its marker holds its process id."""

    async def is_healthy() -> bool:
        return marker.exists() and marker.read_text() != ""

    return ProcessPlan(
        name=marker.name,
        command=(sys.executable, "-c", program, str(marker)),
        environment=os.environ,
        is_healthy=is_healthy,
        grace_s=grace_s,
        shown=shown,
    )


@pytest.fixture
def screen() -> RecordedScreen:
    return RecordedScreen()


@pytest_asyncio.fixture
async def supervisor(screen: RecordedScreen) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(screen, backoff=QUICK)
    yield supervisor
    supervisor.kill()
    await supervisor.stop()


def alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


async def new_id(marker: Path, old: int) -> int:
    async def changed() -> bool:
        return marker.read_text() not in ("", str(old))

    await eventually(changed)
    return int(marker.read_text())


def test_back_off_doubles_up_to_its_limit() -> None:
    assert [Backoff().delay(deaths) for deaths in range(8)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert Backoff().delay(10**6) == 10.0


async def test_started_process_is_healthy_and_its_lines_are_shown(
    supervisor: Supervisor, screen: RecordedScreen, tmp_path: Path
) -> None:
    await supervisor.start(plan(tmp_path / "one"))
    assert alive(int((tmp_path / "one").read_text()))

    async def shown() -> bool:
        return "one          │ hello from one\n" in screen.text

    await eventually(shown)


async def test_groups_are_stopped_newest_first(supervisor: Supervisor, screen: RecordedScreen, tmp_path: Path) -> None:
    await supervisor.start(plan(tmp_path / "store"))
    await supervisor.start(plan(tmp_path / "service-1"), plan(tmp_path / "service-2"))
    await supervisor.start(plan(tmp_path / "front"))
    await supervisor.stop()
    order = (tmp_path / "order").read_text().split()
    assert order[0] == "front"
    assert set(order[1:3]) == {"service-1", "service-2"}
    assert order[3] == "store"
    assert screen.sentences()[0] == "Stopping front."
    assert screen.sentences()[-1] == "Stopping store."


async def test_groups_that_are_started_together_wait_for_each_other_alone_when_they_stop(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    waits = "while not pathlib.Path(sys.argv[1]).with_name('front').exists():\n    time.sleep(0.01)"
    service = plan(tmp_path / "service", f"import pathlib, sys, time\n{waits}{STAYS}")
    async with asyncio.timeout(30):  # one after the other they would wait for ever: it is healthy after the front only
        await supervisor.start_together([service], [plan(tmp_path / "front")])
    await supervisor.stop()
    assert (tmp_path / "order").read_text().split() == ["front", "service"]


async def test_group_that_does_not_start_ends_the_start_of_those_beside_it(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    never = replace(plan(tmp_path / "front"), is_healthy=plan(tmp_path / "nowhere").is_healthy)
    with pytest.raises(CannotStart, match="service did not start: it ended with exit code 3"):
        await supervisor.start_together([plan(tmp_path / "service", "import sys; sys.exit(3)")], [never])


async def test_killed_process_is_started_again_and_said_so(
    supervisor: Supervisor, screen: RecordedScreen, tmp_path: Path
) -> None:
    await supervisor.start(plan(tmp_path / "one"))
    first = int((tmp_path / "one").read_text())
    os.kill(first, signal.SIGKILL)
    second = await new_id(tmp_path / "one", first)
    os.kill(second, signal.SIGSEGV)
    await new_id(tmp_path / "one", second)
    assert screen.sentences() == [
        "one was ended by SIGKILL; it is started again in 0.01 s.",
        "one was ended by SIGSEGV; it is started again in 0.02 s.",
    ]


async def test_process_that_ran_long_enough_starts_with_a_clean_record(screen: RecordedScreen, tmp_path: Path) -> None:
    supervisor = Supervisor(screen, backoff=Backoff(first_s=0.01, most_s=10, forgiven_after_s=0))
    try:
        await supervisor.start(plan(tmp_path / "one"))
        process_id = int((tmp_path / "one").read_text())
        for _ in range(3):
            os.kill(process_id, signal.SIGKILL)
            process_id = await new_id(tmp_path / "one", process_id)
    finally:
        await supervisor.stop()
    deaths = [sentence for sentence in screen.sentences() if "SIGKILL" in sentence]
    assert deaths == ["one was ended by SIGKILL; it is started again in 0.01 s."] * 3


async def test_process_that_ends_before_it_is_healthy_is_not_started_again(
    supervisor: Supervisor, screen: RecordedScreen, tmp_path: Path
) -> None:
    with pytest.raises(CannotStart) as refused:
        await supervisor.start(
            plan(tmp_path / "one"), plan(tmp_path / "two", "print('no such thing', flush=True); raise SystemExit(3)")
        )
    assert str(refused.value) == "two did not start: it ended with exit code 3. Its last words: no such thing"
    await supervisor.stop()


async def test_command_that_does_not_exist_is_named(supervisor: Supervisor, tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    missing = ProcessPlan("one", (str(tmp_path / "nothing"),), os.environ, never)
    with pytest.raises(CannotStart, match="nothing cannot be run: No such file or directory"):
        await supervisor.start(missing)


async def test_process_that_ignores_sigterm_is_killed_after_its_grace(
    supervisor: Supervisor, screen: RecordedScreen, tmp_path: Path
) -> None:
    await supervisor.start(plan(tmp_path / "one", DEAF, grace_s=0.05))
    process_id = int((tmp_path / "one").read_text())
    await supervisor.stop()
    assert not alive(process_id)
    assert screen.sentences() == ["Stopping one.", "one is still there after 0.05 s and is killed."]


async def test_killed_supervisor_starts_nothing_again(
    supervisor: Supervisor, screen: RecordedScreen, tmp_path: Path
) -> None:
    await supervisor.start(plan(tmp_path / "one"), plan(tmp_path / "two", DEAF))
    supervisor.kill()
    await supervisor.stop()
    assert "started again" not in screen.text
    assert not any(alive(int((tmp_path / name).read_text())) for name in ("one", "two"))


async def test_stop_ends_a_process_that_waits_for_its_next_start(screen: RecordedScreen, tmp_path: Path) -> None:
    supervisor = Supervisor(screen, backoff=Backoff(first_s=3600, most_s=3600))
    await supervisor.start(plan(tmp_path / "one"))
    os.kill(int((tmp_path / "one").read_text()), signal.SIGKILL)

    async def waits() -> bool:
        return "it is started again in 3600 s" in screen.text

    await eventually(waits)
    await asyncio.wait_for(supervisor.stop(), 10)


async def test_hidden_process_shows_nothing_but_its_last_words(
    supervisor: Supervisor, screen: RecordedScreen, tmp_path: Path
) -> None:
    await supervisor.start(plan(tmp_path / "one", shown=False))
    first = int((tmp_path / "one").read_text())
    os.kill(first, signal.SIGKILL)
    second = await new_id(tmp_path / "one", first)
    os.kill(second, signal.SIGUSR1)
    await new_id(tmp_path / "one", second)
    assert screen.text.splitlines() == [
        "disco        │ one was ended by SIGKILL; it is started again in 0.01 s.",
        "disco        │ one ended with exit code 5; it is started again in 0.02 s. Its last words: out of order",
    ]


async def test_endless_line_is_shown_in_pieces(supervisor: Supervisor, screen: RecordedScreen, tmp_path: Path) -> None:
    await supervisor.start(plan(tmp_path / "one", "print('x' * 500_000, flush=True)" + STAYS))

    async def all_shown() -> bool:
        return screen.text.count("x") == 500_000

    await eventually(all_shown)


async def test_processes_end_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    marker = tmp_path / "one"
    launcher = f"""
import asyncio, os, sys
from pathlib import Path
from tests.disco_server.recorded_screen import RecordedScreen
from tests.disco_server.test_processes import plan
from disco_server.processes import Supervisor
async def main():
    await Supervisor(RecordedScreen()).start(plan(Path({str(marker)!r})))
    print("started", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", launcher, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stdout=-1
    )
    assert parent.stdout is not None
    assert await parent.stdout.readline() == b"started\n"
    child = int(marker.read_text())
    parent.kill()
    await parent.wait()

    async def gone() -> bool:
        return not alive(child)

    await eventually(gone)
