"""Runs a command that dies with its parent: `python -I -S bound.py PARENT_PID COMMAND…`.

The kernel kills the command as soon as its parent is gone, even where the parent
was killed with -9 and could not say goodbye. Being a program of its own, it sets
this between fork and exec without running Python in a forked, threaded parent.
Linux only; elsewhere the command is started without that bond. Knows no command.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def main() -> None:
    parent, *command = sys.argv[1:]
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the command would inherit that
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):
            sys.exit("The parent is gone already.")  # it died before the bond was made
    try:
        os.execvp(command[0], command)  # noqa: S606 (there is no shell on purpose)
    except OSError as error:
        sys.exit(f"{command[0]} cannot be run: {error.strerror}.")


if __name__ == "__main__":
    main()
