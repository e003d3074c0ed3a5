"""Starts the process that reads or writes a foreign file, waits for its answer, and removes what it leaves.

The process has an empty environment, a fresh folder for its own, and a deadline; at the
deadline its whole group is killed. One that crashes is started again, once. Knows no format.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import msgspec
import structlog

from learning.refusals import BY_REASON, InternalError, InvalidModel
from services.task_service.conversion.limits import ConversionLimits

ORDER = "order.json"
ANSWER = "answer.json"
MAX_ANSWER_BYTES = 32 * 1024 * 1024
_ROOT = Path(__file__).parents[3]
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from services.task_service.conversion.worker import main; main()"
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_ERRORS = "errors.txt"
_TAIL = 2000
_ATTEMPTS = 2
_BLOCK = 4096

_log = structlog.stdlib.get_logger("conversion")


@asynccontextmanager
async def workroom(
    job: str, arguments: Mapping[str, object], *, limits: ConversionLimits
) -> AsyncIterator[tuple[Path, dict[str, object]]]:
    """The folder of a job that is done, and what the process answered. Raises what the process refused with."""
    order = msgspec.json.encode({"job": job, "limits": asdict(limits), **arguments})
    async with AsyncExitStack() as room:
        async with _deadline(limits):
            for attempt in range(1, _ATTEMPTS + 1):
                folder = await room.enter_async_context(_fresh_folder())
                await asyncio.to_thread((folder / ORDER).write_bytes, order)
                returned = await _run(folder)
                if not _crashed(returned) or attempt == _ATTEMPTS:
                    break
                # Not every crash is the file's doing: it is believed when it comes again.
                _log.warning("conversion.crashed", returned=returned, attempt=attempt)
                await room.aclose()
        yield folder, await asyncio.to_thread(_answer, folder, returned, limits)


def absolute(path: Path) -> str:
    """A path as the process, which works elsewhere, finds it."""
    return os.path.abspath(path)


@asynccontextmanager
async def _deadline(limits: ConversionLimits) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limits.seconds):
            yield
    except TimeoutError:
        raise InvalidModel(problem=f"it takes more than {limits.seconds:g} seconds to read") from None


@asynccontextmanager
async def _fresh_folder() -> AsyncIterator[Path]:
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="disco-model-"))
    try:
        yield folder
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))


async def _run(folder: Path) -> int:
    """What the process returned; minus the number of the signal that ended it."""
    # By `subprocess` and not by the loop: uvloop forks, and the child runs Python and the fork handlers of gRPC before
    # it becomes another program, which beside gRPC's threads ends in SIGSEGV now and then. This runs nothing between.
    # In this thread, though it waits a moment: the process is to die with its parent, and Linux means the thread.
    with (folder / _ERRORS).open("wb") as errors:
        process = subprocess.Popen(  # noqa: ASYNC220, S603
            (sys.executable, "-I", "-c", _BOOT, str(_ROOT)),
            cwd=folder,
            env=_ENVIRONMENT | {"TMPDIR": str(folder), "HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    try:
        await _silence_of(process)
        return await asyncio.to_thread(process.wait)
    finally:
        # Its group outlives it where it started something; it is asked to start nothing.
        _kill_group(process.pid)
        await asyncio.shield(asyncio.to_thread(process.wait))


async def _silence_of(process: subprocess.Popen[bytes]) -> None:
    """Returns when nobody holds the process's standard output: mostly when it has ended. Takes no thread meanwhile."""
    assert process.stdout is not None, "its output was asked for"
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
    try:
        while await reader.read(_BLOCK):
            pass  # it has nothing to say; whatever it says is thrown away
    finally:
        transport.close()


def _crashed(returned: int) -> bool:
    """Whether a signal ended it that neither its limits nor its deadline send."""
    return returned < 0 and -returned != signal.SIGXCPU


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _answer(folder: Path, returned: int, limits: ConversionLimits) -> dict[str, object]:
    if returned == -signal.SIGXCPU:
        raise InvalidModel(problem=f"it takes more than {limits.cpu_seconds} seconds of computing to read")
    if returned == -signal.SIGKILL:  # not by us: that is after the deadline, when nobody asks for an answer
        raise InvalidModel(
            problem=f"its reader was killed {_ATTEMPTS} times, as it happens where a machine has no memory left, which "
            "says nothing about the file. Try again later; if that does not help, tell who runs this server"
        )
    if _crashed(returned):
        raise InvalidModel(
            problem=f"its reader crashed on it {_ATTEMPTS} times ({signal.strsignal(-returned)}): either the file is "
            "damaged, or the reader has a bug. Save it again; if that does not help, tell who runs this server"
        )
    if returned != 0:
        with (folder / _ERRORS).open("rb") as errors:
            said = errors.read(limits.file_bytes)[-_TAIL:].decode(errors="replace")
        _log.warning("conversion.failed", returned=returned, errors=said)
        raise InvalidModel(problem="it is damaged: its reader gave up on it")
    with (folder / ANSWER).open("rb") as file:
        text = file.read(MAX_ANSWER_BYTES + 1)
    if len(text) > MAX_ANSWER_BYTES:
        raise InvalidModel(problem=f"its description is larger than {MAX_ANSWER_BYTES} bytes")
    answer = msgspec.json.decode(text, type=dict[str, object])
    if "refused" in answer:
        kind = BY_REASON.get(str(answer["refused"]), InternalError)
        raise kind(**msgspec.convert(answer["variables"], dict[str, str]))
    return answer
