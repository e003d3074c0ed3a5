"""The allocator keeps large buffers, in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from rpc import memory

# How many pages a process faults in while it makes and drops a buffer of 16 MiB twenty times.
FAULTS = """
import resource, sys
from rpc.memory import tune_allocator
if sys.argv[1] == "tuned":
    assert tune_allocator()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(16 << 20)
before = faults()
for _ in range(20):
    bytearray(16 << 20)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tunes glibc only")
def test_buffers_are_reused_instead_of_faulted_in_again() -> None:
    def faults(mode: str) -> int:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", FAULTS, mode]
        return int(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)

    assert faults("tuned") * 20 < faults("plain")


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    assert memory.tune_allocator() is False


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Musl:
        def mallopt(self, *_: int) -> int:
            raise AssertionError("was called")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("ctypes.CDLL", lambda _name: Musl())
    assert memory.tune_allocator() is False
