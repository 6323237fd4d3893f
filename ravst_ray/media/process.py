"""The decoder's child process as its parent sees it: how it starts, what it is told, how it ends."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping

from ravst_ray.logs import LOG_LEVEL_VARIABLE
from ravst_ray.media import boot
from ravst_ray.media.wire import Channel

# All that the interpreter, the libraries and the log need; no key of a service is among it.
_KEPT = re.compile(
    rf"PATH|HOME|TMPDIR|TZ|LANG|LANGUAGE|LC_\w+|LD_LIBRARY_PATH|{LOG_LEVEL_VARIABLE}"
    "|PYTHON(HOME|HASHSEED|USERBASE|NOUSERSITE|UTF8|IOENCODING|DONTWRITEBYTECODE|PYCACHEPREFIX|UNBUFFERED|FAULTHANDLER)"
)
# One video after the other is decoded; on a large machine, stacks and heaps of idle threads take much address space.
_FEW_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "4"}


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that a decoder's child gets."""
    return {name: value for name, value in environment.items() if _KEPT.fullmatch(name)} | _FEW_THREADS


class ChildProcess:
    """A running child process and the ``channel`` to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours)
        # The child sees the modules that its parent sees, also those that a Ray job brought along.
        places = os.pathsep.join(entry for entry in sys.path if entry)
        command = [sys.executable, "-P", boot.__file__, places, str(theirs.fileno()), str(os.getpid())]
        with theirs:
            self.process = subprocess.Popen(
                command,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=2,  # native libraries that print to stdout end up in the log
                env=child_environment(os.environ),
            )

    def end(self) -> int | None:
        """Close the channel and wait for the process, so that no zombie stays.

        Returns:
            Its exit status, that of a crash if it had one; None when it went on and had to be killed.
        """
        self.channel.close()
        try:
            return self.process.wait(timeout=0.5)  # idle or crashed, it ends by itself
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None
