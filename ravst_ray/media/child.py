"""The process in which videos are decoded: ``python -m ravst_ray.media.child FD PARENT_PID``.

It reads requests from the socket FD and answers each with the JPEGs, piece by piece, and then one message with the
rest. It imports neither ray nor torch, and it dies with its parent, whatever a native library is doing.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from dataclasses import asdict
from typing import Any

from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.errors import StepError
from ravst_ray.logs import setup_logging
from ravst_ray.media.wire import Channel

_PR_SET_PDEATHSIG = 1
_PIECE_BYTES = 8 * 2**20


def main() -> None:
    """Serve until the parent closes its end or dies."""
    fd, parent_pid = int(sys.argv[1]), int(sys.argv[2])
    die_with(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    setup_logging()
    channel = Channel(socket.socket(fileno=fd))
    try:
        serve(channel)
    except ConnectionError:
        return


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends; only Linux can, elsewhere the closed socket ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it died before the call
            sys.exit(1)


def serve(channel: Channel) -> None:
    """Read the configuration, load the libraries, say so, and answer requests one after the other."""
    config = DecodeConfig.model_validate(channel.receive()[0])
    import av

    from ravst_ray.media.sampling import sample_video

    av.logging.set_level(av.logging.PANIC)
    if config.backend != "pyav":
        from ravst_ray.media import decord_decoder  # noqa: F401
    channel.send({"kind": "ready"})
    while True:
        request, _ = channel.receive()
        pieces = _Pieces(channel)
        try:
            wanted = request["path"], request["times_s"], config, pieces.add, request["sound"]
            sampled = sample_video(*wanted)
        except StepError as error:
            answer: dict[str, Any] = {"reason": error.reason, "message": error.message, "retryable": error.retryable}
            channel.send({"kind": "error", **answer})
            continue
        pieces.flush()
        channel.send({"kind": "done", **asdict(sampled)})


class _Pieces:
    """JPEGs on their way out, some MiB at a time, so that a long video doesn't pile up here."""

    def __init__(self, channel: Channel):
        self._channel = channel
        self._jpegs: list[bytes] = []
        self._bytes = 0

    def add(self, jpeg: bytes) -> None:
        self._jpegs.append(jpeg)
        self._bytes += len(jpeg)
        if self._bytes >= _PIECE_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._jpegs:
            self._channel.send({"kind": "jpegs", "sizes": [len(j) for j in self._jpegs]}, b"".join(self._jpegs))
        self._jpegs, self._bytes = [], 0


if __name__ == "__main__":
    main()
