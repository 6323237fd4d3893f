"""Decoding in a child process, which is killed and replaced when a video hangs or crashes it.

decord can hang in native code holding the interpreter's lock, and broken files can crash any decoder; neither must
take an actor along.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.errors import AbortError, StepError
from ravst_ray.logs import get_logger
from ravst_ray.media.protocols import DecodedVideo
from ravst_ray.media.wire import Channel
from ravst_ray.records import Frames, Loudness, VideoMeta

log = get_logger(__name__)

_START_TIMEOUT_S = 120.0
_START_ATTEMPTS = 3


class ChildDecoder:
    """A :class:`~ravst_ray.backends.protocols.Decoder` whose libraries run in a child process.

    The child starts with the first video and lives until :meth:`close`, or until the thread that started it ends.
    A pickled copy starts its own.

    Args:
        config: how frames are decoded.
        sound: measure the loudness, too.
    """

    def __init__(self, config: DecodeConfig, sound: bool = True):
        self.config = config
        self.sound = sound
        self._child: _Child | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        return self._child.process.pid if self._child else None

    def decode(self, path: str, times_s: Sequence[float]) -> DecodedVideo:
        """Frames at ``times_s`` (sorted, unique), metadata and loudness; times without a picture are left out.

        When something kills the child, the video is tried once more.

        Raises:
            StepError: the file can't be used, ``decode_deadline`` or ``decoder_crashed``.
            AbortError: no child process can be started.
        """
        try:
            return self._decode(path, times_s)
        except StepError as error:
            if not (error.reason == "decoder_crashed" and error.retryable):
                raise
            log.warning("%s; trying once more", error)
            return self._decode(path, times_s)

    def _decode(self, path: str, times_s: Sequence[float]) -> DecodedVideo:
        child = self._living_child()
        deadline = time.monotonic() + self.config.deadline_s
        usable = False
        try:
            child.channel.send({"path": path, "times_s": list(times_s), "sound": self.sound}, deadline=deadline)
            decoded = _receive(child.channel, deadline)
            usable = True
            return decoded
        except StepError:
            usable = True
            raise
        except TimeoutError:
            message = f"{Path(path).name}: decoding took longer than decode.deadline_s = {self.config.deadline_s:g} s"
            raise StepError("decode_deadline", message) from None
        except ConnectionError:
            raise _crash(path, child.end()) from None
        finally:
            if not usable:
                self.close()

    def close(self) -> None:
        """End the child process, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def _living_child(self) -> _Child:
        if self._child is not None and self._child.process.poll() is not None:
            log.warning("the decoder's child process has ended with status %s", self._child.process.returncode)
            self.close()
        if self._child is None:
            self._child = _start(self.config)
        return self._child

    def __reduce__(self) -> tuple[type[ChildDecoder], tuple[DecodeConfig, bool]]:
        return type(self), (self.config, self.sound)

    def __del__(self) -> None:
        self.close()


class _Child:
    """A running child process and the channel to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours)
        command = [sys.executable, "-m", "ravst_ray.media.child", str(theirs.fileno()), str(os.getpid())]
        with theirs:
            self.process = subprocess.Popen(
                command,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=2,  # native libraries that print to stdout end up in the log
                # The child sees the modules that its parent sees, also those that a Ray job brought along.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
            )

    def end(self) -> int:
        """Kill the process, wait for it (no zombie stays) and give its exit status, that of a crash if it had one."""
        self.channel.close()
        try:
            return self.process.wait(timeout=0.5)  # idle or crashed, it ends by itself
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def _start(config: DecodeConfig) -> _Child:
    for attempt in range(1, _START_ATTEMPTS + 1):
        child = _Child()
        deadline = time.monotonic() + _START_TIMEOUT_S
        try:
            child.channel.send(config.model_dump(mode="json"), deadline=deadline)
            child.channel.receive(deadline)
            return child
        except (TimeoutError, ConnectionError) as error:
            log.warning("start %d of the decoder's child process failed: %s (status %s)", attempt, error, child.end())
    raise AbortError(f"the decoder's child process didn't start in {_START_ATTEMPTS} attempts; its log says why")


def _receive(channel: Channel, deadline: float) -> DecodedVideo:
    pictures: list[bytes] = []
    while True:
        header, payload = channel.receive(deadline)
        if header["kind"] == "error":
            raise StepError(header["reason"], header["message"], header["retryable"])
        if header["kind"] == "done":
            return _decoded(header, pictures)
        start = 0
        for size in header["sizes"]:
            pictures.append(bytes(payload[start : start + size]))
            start += size


def _decoded(header: dict[str, Any], pictures: list[bytes]) -> DecodedVideo:
    level = header["loudness"]
    return DecodedVideo(
        meta=VideoMeta(**header["meta"]),
        frames=Frames(
            times_s=tuple(header["times_s"]),
            width=header["width"],
            height=header["height"],
            jpegs=tuple(pictures[number] for number in header["picture_T"]),
        ),
        loudness=Loudness(level["step_s"], tuple(level["level_db_T"])) if level else None,
    )


def _crash(path: str, status: int) -> StepError:
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    # Nothing in a file sends SIGKILL: someone, often the kernel short of memory, did, and it may go well next time.
    killed = status == -signal.SIGKILL
    message = f"{Path(path).name}: the decoder's process ended with {how}; the file may be broken"
    return StepError("decoder_crashed", message, retryable=killed)
