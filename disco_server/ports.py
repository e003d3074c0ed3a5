"""TCP ports: whether the ones that are wanted are free, and others that are. Knows no process."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from disco_server.cannot_start import CannotStart


@dataclass(frozen=True, slots=True)
class WantedPort:
    """A port that a process will listen on; 0 means any that is free."""

    setting: str
    """The variable with which another one is chosen."""
    host_setting: str
    host: str
    port: int


def find_free(wanted: Sequence[WantedPort]) -> list[int]:
    """One free port for each, in order; the one that is wanted where a number is given. Raises CannotStart."""
    with ExitStack() as held:  # all are held until all are found, so that no port is given twice
        # Fixed numbers first, so that a port chosen for a 0 is never one of them.
        order = sorted(range(len(wanted)), key=lambda index: wanted[index].port == 0)
        found = {index: _bind(wanted[index], held) for index in order}
    return [found[index] for index in range(len(wanted))]


def _bind(wanted: WantedPort, held: ExitStack) -> int:
    family = socket.AF_INET6 if ":" in wanted.host else socket.AF_INET
    listener = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else the last run's closed connections count
    try:
        listener.bind((wanted.host, wanted.port))
        listener.listen(1)  # two sockets that only bound it may share a port
    except OSError as error:
        raise CannotStart(_sentence(wanted, error)) from error
    return int(listener.getsockname()[1])


def _sentence(wanted: WantedPort, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {wanted.port} on {wanted.host} is taken: "
            f"stop what uses it, or choose another port with {wanted.setting}."
        )
    if error.errno == errno.EACCES:
        return (
            f"Port {wanted.port} on {wanted.host} is reserved for the administrator: "
            f"choose one from 1024 on with {wanted.setting}."
        )
    return f"Nothing can listen on {wanted.host} port {wanted.port} ({error.strerror}): check {wanted.host_setting}."
