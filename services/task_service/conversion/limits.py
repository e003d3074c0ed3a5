"""What a conversion may take, and the process that keeps to it. Knows no format."""

from __future__ import annotations

import ctypes
import resource
import signal
import sys
from dataclasses import dataclass

_MIB = 1024 * 1024
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


@dataclass(frozen=True, slots=True)
class ConversionLimits:
    """For one file. Times are seconds."""

    weights_bytes: int = 100 * _MIB
    """Of the model, as float32."""
    file_bytes: int = 512 * _MIB
    """Of the file, and again of what is in it when it is unpacked."""
    memory_bytes: int = 1024 * _MIB
    """Address space of the process; about 200 MiB of it are needed for an empty model."""
    cpu_seconds: int = 60
    seconds: float = 120.0
    members: int = 1024
    """Files in an archive."""


def enter(limits: ConversionLimits) -> None:
    """This process has these limits from now on, gets no privileges, and dies with the one that started it."""
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_AS, limits.memory_bytes),
    ):
        _, given = resource.getrlimit(kind)
        # Where both limits of processor time are one, Linux sends SIGKILL, as others do for their own reasons: with a
        # second between them it sends SIGXCPU first.
        between = 1 if kind == resource.RLIMIT_CPU else 0
        hard = value + between if given == resource.RLIM_INFINITY else min(value + between, given)
        resource.setrlimit(kind, (hard - between, hard))
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
