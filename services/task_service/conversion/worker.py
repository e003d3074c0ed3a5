"""The process: reads its order from its folder, keeps to its limits, and leaves an answer.

Everything that it can foresee it answers as a refusal. What it cannot foresee ends it, and
whoever started it says that the file is damaged; where a signal ended it, only after another attempt.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from learning.refusals import DiscoError, InvalidModel, TooLarge
from services.task_service.conversion.limits import ConversionLimits, enter

_FULL = (errno.EFBIG, errno.ENOSPC)


class _Order(msgspec.Struct):
    job: str
    limits: ConversionLimits


def main() -> None:
    """Everything is in the current folder."""
    text = Path("order.json").read_bytes()
    order = msgspec.json.decode(text, type=_Order)
    enter(order.limits)
    # Only now: what a file makes the readers do happens within the limits.
    from services.task_service.conversion import jobs

    job: Callable[[Mapping[str, Any], ConversionLimits], Mapping[str, object]] = jobs.JOBS[order.job]
    answer = _answered(lambda: job(msgspec.json.decode(text), order.limits), order.limits)
    Path("answer.json").write_bytes(msgspec.json.encode(answer))
    sys.exit(0)


def _answered(work: Callable[[], Mapping[str, object]], limits: ConversionLimits) -> Mapping[str, object]:
    try:
        return work()
    except DiscoError as refusal:
        return {"refused": refusal.reason, "variables": refusal.variables}
    except MemoryError:
        problem = f"reading it takes more memory than the limit of {limits.memory_bytes} bytes"
        return {"refused": InvalidModel.reason, "variables": {"problem": problem}}
    except RecursionError:
        return {"refused": InvalidModel.reason, "variables": {"problem": "it is nested too deeply"}}
    except OSError as error:
        if error.errno not in _FULL:
            raise
        return {"refused": TooLarge.reason, "variables": {"limit_bytes": str(limits.file_bytes)}}
