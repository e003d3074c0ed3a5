"""The process that reads foreign files keeps to its limits, and nothing of it remains."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest

from learning.refusals import InvalidModel
from services.task_service.conversion import hdf5, workroom
from services.task_service.conversion.converting import convert_model
from services.task_service.conversion.limits import ConversionLimits

ENTER = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import msgspec
from services.task_service.conversion.limits import ConversionLimits, enter
from services.task_service.conversion.worker import _Order, _answered
order = msgspec.json.decode(open("order.json", "rb").read(), type=_Order)
enter(order.limits)
"""
MIB = 1024 * 1024


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "rooms"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


async def work(program: str, monkeypatch: pytest.MonkeyPatch, limits: ConversionLimits) -> dict[str, object]:
    """Lets the process do something else than it should, as a file might make it do."""
    monkeypatch.setattr(workroom, "_BOOT", ENTER + program)
    async with workroom.workroom("convert", {}, limits=limits) as (_, answer):
        return answer


def answering(value: str) -> str:
    return f'\nopen("answer.json", "wb").write(msgspec.json.encode({{"value": {value}}}))'


async def test_has_an_environment_of_its_own(rooms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCO_TASK_TOKEN", "secret")
    answer = await work(answering("sorted(os.environ)"), monkeypatch, ConversionLimits())
    assert answer["value"] == sorted(["PATH", "LANG", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TMPDIR", "HOME"])
    assert list(rooms.iterdir()) == []


async def test_stops_at_its_deadline_with_all_that_it_started(rooms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = rooms.parent / "pids"
    program = f"""
child = os.fork()
if child:
    open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{child}}")
time.sleep(600)
"""
    with pytest.raises(InvalidModel, match="more than 5 seconds to read"):
        await work(program, monkeypatch, ConversionLimits(seconds=5))
    async with asyncio.timeout(10):
        for pid in map(int, pids.read_text().split()):
            while is_running(pid):
                await asyncio.sleep(0.01)
    assert list(rooms.iterdir()) == []


def is_running(pid: int) -> bool:
    """A process that ended is not running, even where nobody has asked for its end yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_stops_when_whoever_waits_gives_up(rooms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = rooms.parent / "pid"
    program = f'\nopen({str(started)!r}, "w").write(str(os.getpid()))\ntime.sleep(600)'
    waiting = asyncio.create_task(work(program, monkeypatch, ConversionLimits()))
    async with asyncio.timeout(30):
        while not started.exists() or not started.read_text():
            await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not is_running(int(started.read_text()))
    assert list(rooms.iterdir()) == []


async def test_computes_no_longer_than_it_may(rooms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidModel, match="more than 1 seconds of computing"):
        await work("\nwhile True: pass", monkeypatch, ConversionLimits(cpu_seconds=1))


async def test_takes_no_more_memory_than_it_may(rooms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = f"""
answer = _answered(lambda: {{"size": len(bytearray(900 * {MIB}))}}, order.limits)
open("answer.json", "wb").write(msgspec.json.encode(answer))
"""
    with pytest.raises(InvalidModel, match=f"more memory than the limit of {800 * MIB} bytes"):
        await work(program, monkeypatch, ConversionLimits(memory_bytes=800 * MIB))


async def test_writes_no_more_than_it_may(rooms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
def write():
    with open("big", "wb") as file:
        while True:
            file.write(bytes(1 << 20))
answer = _answered(write, order.limits)
open("answer.json", "wb").write(msgspec.json.encode(answer))
"""
    with pytest.raises(Exception, match="larger than the limit of 3000000 bytes"):
        await work(program, monkeypatch, ConversionLimits(file_bytes=3_000_000))


async def test_a_reader_that_gives_up_is_a_refusal(rooms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidModel, match="its reader gave up on it"):
        await work("\nraise SystemError('a bug')", monkeypatch, ConversionLimits())


def crashing(attempts: Path, times: int, name: str = "SIGSEGV") -> str:
    """A process that is ended by a signal in its first attempts, each of which leaves a byte."""
    return f"""
import signal
with open({str(attempts)!r}, "ab") as file:
    file.write(b"1")
open(f"left-{os.getpid()}", "w").close()
if os.stat({str(attempts)!r}).st_size <= {times}:
    os.kill(os.getpid(), signal.{name})
"""


async def test_a_crash_is_not_blamed_on_the_file_before_it_comes_twice(
    rooms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = rooms.parent / "attempts"
    answer = await work(crashing(attempts, 1) + answering("os.listdir()"), monkeypatch, ConversionLimits())
    assert attempts.read_bytes() == b"11"
    assert len([name for name in msgspec.convert(answer["value"], list[str]) if name.startswith("left-")]) == 1
    assert list(rooms.iterdir()) == []


async def test_a_reader_that_crashes_again_is_a_refusal_that_says_so(
    rooms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = rooms.parent / "attempts"
    with pytest.raises(InvalidModel, match=r"crashed on it 2 times \(Segmentation fault\): either the file is"):
        await work(crashing(attempts, 99), monkeypatch, ConversionLimits())
    assert attempts.read_bytes() == b"11"
    assert list(rooms.iterdir()) == []


async def test_a_reader_that_somebody_kills_is_not_said_to_compute_too_long(
    rooms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = rooms.parent / "attempts"
    with pytest.raises(InvalidModel, match=r"was killed 2 times, .* which says nothing about the file"):
        await work(crashing(attempts, 99, "SIGKILL"), monkeypatch, ConversionLimits())
    assert attempts.read_bytes() == b"11"


async def test_nothing_of_its_parent_runs_in_it_on_the_loop_of_the_services_either(saved: Path) -> None:
    """Between fork and exec, what gRPC runs crashes beside its threads: ours, which always does, stands for it."""
    program = (
        "import asyncio, os, pathlib, signal, sys, uvloop\n"
        "from services.task_service.conversion.converting import convert_model\n"
        "os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGSEGV))\n"
        "async def main():\n"
        "    async with convert_model(pathlib.Path(sys.argv[1])) as converted: print(converted.digest)\n"
        "with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner: runner.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(saved / "tf_keras" / "dense.h5")),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, wrong = await process.communicate()
    assert process.returncode == 0, wrong.decode()
    assert len(said.strip()) == 64


async def test_a_missing_extra_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InvalidModel, match=r"not installed here: pip install 'disco-server\[convert\]'"):
        hdf5.h5py()


async def test_whoever_converts_imports_neither_h5py_nor_tensorflow(saved: Path) -> None:
    program = (
        "import asyncio, sys, pathlib\n"
        "from services.task_service.conversion.converting import convert_model\n"
        "async def main():\n"
        "    async with convert_model(pathlib.Path(sys.argv[1])) as converted: print(converted.digest)\n"
        "asyncio.run(main())\n"
        "assert not {'h5py', 'tensorflow', 'keras', 'tf_keras'} & set(sys.modules)\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(saved / "keras" / "dense.keras")),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    async with convert_model(saved / "tf_keras" / "dense.h5") as converted:
        assert said.decode().strip() == converted.digest
