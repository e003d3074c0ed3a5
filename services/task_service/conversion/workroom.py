"""Starts the process that reads or writes a foreign file, waits for its answer, and removes what it leaves.

The process has an empty environment, a fresh folder for its own, and a deadline; at the
deadline its whole group is killed. Knows no format.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
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

_log = structlog.stdlib.get_logger("conversion")


@asynccontextmanager
async def workroom(
    job: str, arguments: Mapping[str, object], *, limits: ConversionLimits
) -> AsyncIterator[tuple[Path, dict[str, object]]]:
    """The folder of a job that is done, and what the process answered. Raises what the process refused with."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="disco-model-"))
    try:
        order = msgspec.json.encode({"job": job, "limits": asdict(limits), **arguments})
        await asyncio.to_thread((folder / ORDER).write_bytes, order)
        returned = await _run(folder, limits)
        yield folder, await asyncio.to_thread(_answer, folder, returned, limits)
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))


def absolute(path: Path) -> str:
    """A path as the process, which works elsewhere, finds it."""
    return os.path.abspath(path)


async def _run(folder: Path, limits: ConversionLimits) -> int:
    """What the process returned; minus the number of the signal that ended it."""
    with (folder / _ERRORS).open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-c", _BOOT, str(_ROOT)),
            cwd=folder,
            env=_ENVIRONMENT | {"TMPDIR": str(folder), "HOME": str(folder)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(limits.seconds):
            return await process.wait()
    except TimeoutError:
        raise InvalidModel(problem=f"it takes more than {limits.seconds:g} seconds to read") from None
    finally:
        # Its group outlives it where it started something; it is asked to start nothing.
        _kill_group(process.pid)
        await process.wait()


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _answer(folder: Path, returned: int, limits: ConversionLimits) -> dict[str, object]:
    if returned == -signal.SIGXCPU or (returned == -signal.SIGKILL and not (folder / ANSWER).exists()):
        raise InvalidModel(problem=f"it takes more than {limits.cpu_seconds} seconds of computing to read")
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
