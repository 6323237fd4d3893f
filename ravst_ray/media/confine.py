"""What a process that reads strangers' files gives up: the network, and more memory and time than a video needs.

Each of these holds where Linux allows it, and is left out elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4


def go_first() -> None:
    """Have the kernel end this process before any other when memory runs out, and write no core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def leave_network() -> bool:
    """Move this process, which has one thread yet, to a network of its own without devices; whether that went well.

    Sockets that are open stay so. What files it may read doesn't change: root keeps to its own user namespace, in any
    other it could no longer read the files of other users.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWUSER | _CLONE_NEWNET
    left: bool = libc.unshare(flags) == 0
    libc.prctl(_PR_SET_DUMPABLE, 1)  # a new user namespace hides the process from its own user's tools
    return left


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends; elsewhere than on Linux the closed socket ends it.

    To be called after :func:`leave_network`, which makes the kernel forget it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it died before the call
            sys.exit(1)


def limit_memory(more_bytes: int) -> None:
    """Let the address space grow by at most so much from here on: allocations then fail with ``MemoryError``."""
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + more_bytes)


def limit_cpu(more_s: float) -> None:
    """Have the kernel end this process, with SIGXCPU, when its threads have computed for so long together from now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + more_s) + 1)


def _lower(kind: int, soft: int) -> None:
    """Set the soft limit, which may be raised again, within the hard one."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
