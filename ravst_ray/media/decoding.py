"""Decoding in a child process, which is killed and replaced when a video hangs or crashes it.

decord can hang in native code holding the interpreter's lock, and broken files can crash any decoder; neither must
take an actor along. Nothing else in this project opens a video file.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.errors import AbortError, StepError
from ravst_ray.logs import get_logger
from ravst_ray.media.child import TOO_LARGE
from ravst_ray.media.clips import SAMPLE_RATE_HZ
from ravst_ray.media.process import ChildProcess
from ravst_ray.media.protocols import DecodedVideo, Timeline
from ravst_ray.media.wire import Channel
from ravst_ray.records import Frames, Loudness, VideoMeta

log = get_logger(__name__)

# Address space beside the libraries. For pictures of 8K, decord took 4.1 GiB (16 reference pictures), PyAV 0.8 GiB.
_BYTES, _BYTES_PER_PIXEL = 2 * 2**30, 192
_JPEG = b"\xff\xd8\xff"
_KILLED = "decoder_killed"
_START_TIMEOUT_S = 120.0
_START_ATTEMPTS = 3

T = TypeVar("T")


@dataclass(frozen=True)
class _Answer:
    header: dict[str, Any]
    pictures: list[bytes]
    sound: bytes = b""


class ChildDecoder:
    """A :class:`~ravst_ray.media.protocols.Decoder` whose libraries run in a child process.

    The child starts with the first video and lives until :meth:`close`, or until the thread that started it ends.
    A pickled copy starts its own. Each request has ``config.deadline_s``.

    Args:
        config: how frames are decoded.
        sound: measure the loudness, too.
        memory_bytes: how far the child's address space may grow after its start; by default what videos of
            ``config.max_pixels`` need.
    """

    def __init__(self, config: DecodeConfig, sound: bool = True, memory_bytes: int | None = None):
        self.config = config
        self.sound = sound
        self.memory_bytes = memory_bytes or _BYTES + _BYTES_PER_PIXEL * config.max_pixels
        self._child: ChildProcess | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        return self._child.process.pid if self._child else None

    def decode(self, path: str, times_s: Sequence[float]) -> DecodedVideo:
        """Frames at ``times_s`` (sorted, unique), metadata and loudness; times without a picture are left out.

        When something kills the child, the video is tried once more.

        Raises:
            StepError: the file can't be used, ``decode_deadline``, ``decoder_crashed``, ``decoder_killed`` or
                ``too_large_to_decode``.
            AbortError: no child process can be started.
        """
        request = {"kind": "sample", "path": path, "times_s": list(times_s), "sound": self.sound}
        return self._ask(request, _decoded)

    def index(self, path: str) -> VideoMeta:
        """What a file says of its pictures, none of which is kept; errors as in :meth:`decode`."""
        return self._ask({"kind": "index", "path": path}, lambda answer: VideoMeta(**answer.header["meta"]))

    def timeline(self, path: str) -> Timeline:
        """When the pictures of a file are shown; errors as in :meth:`decode`."""
        return self._ask({"kind": "timeline", "path": path}, _timeline)

    def waveform(self, path: str, bins: int, duration_s: float) -> np.ndarray | None:
        """As :func:`ravst_ray.media.audio.waveform`, float ``[bins, 2]`` or None; errors as in :meth:`decode`."""
        return self._ask({"kind": "waveform", "path": path, "bins": bins, "duration_s": duration_s}, _outline)

    def samples(self, path: str, duration_s: float) -> np.ndarray | None:
        """As :func:`ravst_ray.media.audio.samples`, 16,000 a second; errors as in :meth:`decode`."""
        return self._ask({"kind": "samples", "path": path, "duration_s": duration_s}, lambda it: _heard(it, duration_s))

    def _ask(self, request: dict[str, Any], read: Callable[[_Answer], T]) -> T:
        fresh = self._child is None
        try:
            return self._attempt(request, read)
        except StepError as error:
            # Memory that an older child holds on to may be that of the videos before.
            if not (error.reason == _KILLED or (error.reason == TOO_LARGE and not fresh)):
                raise
            log.warning("%s; trying once more", error)
            return self._attempt(request, read)

    def _attempt(self, request: dict[str, Any], read: Callable[[_Answer], T]) -> T:
        name, child = Path(request["path"]).name, self._living_child()
        deadline = time.monotonic() + self.config.deadline_s
        usable = False
        try:
            child.channel.send(request, deadline=deadline)
            answer = _receive(child.channel, deadline)
            if answer.header["kind"] == "error":
                usable = answer.header["reason"] != TOO_LARGE
                raise self._refused(name, answer.header)
            found = read(answer)
            usable = True
            return found
        except TimeoutError:
            message = f"{name}: decoding took longer than decode.deadline_s = {self.config.deadline_s:g} s"
            raise StepError("decode_deadline", message) from None
        except (ConnectionError, LookupError, TypeError, ValueError):
            raise _crash(name, child.end()) from None
        finally:
            if not usable:
                self.close()

    def _refused(self, name: str, header: dict[str, Any]) -> StepError:
        if header["reason"] != TOO_LARGE:
            return StepError(header["reason"], header["message"], header["retryable"])
        gib = self.memory_bytes / 2**30
        message = f"{name}: decoding it takes more than {gib:.1f} GiB of memory; scale it down, or replace it if broken"
        return StepError(TOO_LARGE, message)

    def close(self) -> None:
        """End the child process, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def _living_child(self) -> ChildProcess:
        if self._child is not None and self._child.process.poll() is not None:
            log.warning("the decoder's child process has ended with status %s", self._child.process.returncode)
            self.close()
        if self._child is None:
            self._child = _start(self.config, self.memory_bytes)
        return self._child

    def __reduce__(self) -> tuple[type[ChildDecoder], tuple[DecodeConfig, bool, int]]:
        return type(self), (self.config, self.sound, self.memory_bytes)

    def __del__(self) -> None:
        self.close()


def _start(config: DecodeConfig, memory_bytes: int) -> ChildProcess:
    for attempt in range(1, _START_ATTEMPTS + 1):
        child = ChildProcess()
        deadline = time.monotonic() + _START_TIMEOUT_S
        try:
            settings = {"decode": config.model_dump(mode="json"), "memory_bytes": memory_bytes}
            child.channel.send(settings, deadline=deadline)
            child.channel.receive(deadline)
            return child
        except (TimeoutError, ConnectionError) as error:
            log.warning("start %d of the decoder's child process failed: %s (status %s)", attempt, error, child.end())
    raise AbortError(f"the decoder's child process didn't start in {_START_ATTEMPTS} attempts; its log says why")


def _receive(channel: Channel, deadline: float) -> _Answer:
    pictures: list[bytes] = []
    sound = b""
    while True:
        header, payload = channel.receive(deadline)
        if header["kind"] == "samples":
            sound = bytes(payload)
            continue
        if header["kind"] != "jpegs":
            return _Answer(header, pictures, sound)
        start = 0
        for size in header["sizes"]:
            pictures.append(bytes(payload[start : start + size]))
            if not pictures[-1].startswith(_JPEG):  # Pillow would take it for what it looks like, a script even
                raise ValueError("no JPEG")
            start += size


def _timeline(answer: _Answer) -> Timeline:
    told = {name: answer.header[name] for name in Timeline.__dataclass_fields__}
    lists = {name: tuple(told[name]) for name in ("starts_s_T", "notes")}
    return Timeline(**{**told, **lists, "meta": VideoMeta(**told["meta"])})


def _heard(answer: _Answer, duration_s: float) -> np.ndarray | None:
    if not answer.header["heard"]:
        return None
    sound = np.frombuffer(answer.sound, np.float32)
    if len(sound) != round(duration_s * SAMPLE_RATE_HZ) or not np.isfinite(sound).all():
        raise ValueError("not the samples that were asked for")
    return sound


def _outline(answer: _Answer) -> np.ndarray | None:
    outline = answer.header["outline"]
    return None if outline is None else np.array(outline, dtype=float).reshape(-1, 2)


def _decoded(answer: _Answer) -> DecodedVideo:
    header, level = answer.header, answer.header["loudness"]
    return DecodedVideo(
        meta=VideoMeta(**header["meta"]),
        frames=Frames(
            times_s=tuple(header["times_s"]),
            width=header["width"],
            height=header["height"],
            jpegs=tuple(answer.pictures[number] for number in header["picture_T"]),
        ),
        loudness=Loudness(**{**level, "level_db_T": tuple(level["level_db_T"])}) if level else None,
    )


def _crash(name: str, status: int | None) -> StepError:
    if status is None:
        return StepError("decoder_crashed", f"{name}: the decoder's process sent nonsense; the file may be broken")
    if status == -signal.SIGXCPU:
        message = f"{name}: decoding computed for longer than decode.deadline_s allows"
        return StepError("decode_deadline", message)
    if status == -signal.SIGKILL:  # nothing in a file sends it: someone, often the kernel short of memory, did
        message = f"{name}: the decoder's process was killed (SIGKILL), as the kernel does when memory runs out"
        return StepError(_KILLED, f"{message}; try it again with more memory, or with fewer decoders at once")
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    message = f"{name}: the decoder's process ended with {how}; the file may be broken, or too large"
    return StepError("decoder_crashed", message)
