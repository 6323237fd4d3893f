"""Runs a server for exactly as long as its owner lives. A script of the standard library alone.

Usage::

    python -P server.py GRACE_S COMMAND...      stdin: a pipe that the owner holds; stdout: closed when all is over

The owner may end in any way, SIGKILL included: the kernel then closes its end of the pipe, and the server's whole
process group gets SIGTERM, after ``GRACE_S`` seconds SIGKILL. The supervisor is nobody's child, because Ray kills the
children of a worker that ends, and would leave the server without anyone to stop it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

_POLL_S = 0.1


def supervise(command: list[str], grace_s: float) -> int:
    """Run ``command`` until it ends, stdin reaches its end, or SIGTERM comes; then end its process group.

    Returns:
        The exit status of the command, negative for a signal.
    """
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True)
    threading.Thread(target=_watch_owner, args=(over,), daemon=True).start()
    while server.poll() is None and not over.wait(_POLL_S):
        pass
    end_group(server, grace_s)
    return server.wait()


def end_group(server: subprocess.Popen[bytes], grace_s: float) -> None:
    """SIGTERM to the group that ``server`` leads, SIGKILL to what is left of it after ``grace_s`` seconds."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
        until = time.monotonic() + grace_s
        while time.monotonic() < until:
            server.poll()  # a leader that nobody waits for would stay in the group
            os.killpg(server.pid, 0)
            time.sleep(_POLL_S)
        os.killpg(server.pid, signal.SIGKILL)


def _watch_owner(over: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    over.set()


def main() -> None:
    """See the top of this file."""
    if os.fork():
        os._exit(0)
    status = supervise(sys.argv[2:], float(sys.argv[1]))
    sys.stderr.write(f"server ended with status {status}\n")
    os._exit(0)  # the thread still reads stdin


if __name__ == "__main__":
    main()
