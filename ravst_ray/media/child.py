"""The process in which video files are opened.

It reads requests from a socket and answers each: with the JPEGs, piece by piece, or samples of sound, and then one
message with the rest, or with one message alone. It imports neither ray nor torch, it dies with its parent, whatever
a native library is doing, and it gives up what :mod:`ravst_ray.media.confine` names.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.errors import StepError
from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.media import confine
from ravst_ray.media.wire import Channel

log = get_logger(__name__)

TOO_LARGE = "too_large_to_decode"
_PIECE_BYTES = 8 * 2**20
_CPU_PER_DEADLINE = 4  # threads of a library that may be busy at once

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def main(fd: int, parent_pid: int) -> None:
    """Serve at the socket ``fd`` until the parent closes its end or dies."""
    confine.go_first()
    isolated = confine.leave_network()
    confine.die_with(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    setup_logging()
    if not isolated:
        log.debug("this system doesn't let the decoder's child process leave the network")
    channel = Channel(socket.socket(fileno=fd))
    try:
        serve(channel)
    except ConnectionError:
        return


def serve(channel: Channel) -> None:
    """Read the settings, load the libraries, say so, and answer requests one after the other."""
    settings, _ = channel.receive()
    config = DecodeConfig.model_validate(settings["decode"])
    answers = _answers(config, channel)
    confine.limit_memory(settings["memory_bytes"])
    channel.send({"kind": "ready"})
    while True:
        request, _ = channel.receive()
        confine.limit_cpu(_CPU_PER_DEADLINE * config.deadline_s)
        try:
            channel.send({"kind": "done", **answers[request.pop("kind")](request)})
        except StepError as error:
            channel.send(_refusal(error))
        except MemoryError:
            channel.send({"kind": "error", "reason": TOO_LARGE})
        except ConnectionError:
            raise
        except Exception as error:  # what no one has thought of that a file may contain
            log.warning("%s: not foreseen:", request["path"], exc_info=True)
            message = f"{Path(request['path']).name}: reading it failed with {error!r}; the file may be broken"
            channel.send(_refusal(StepError("undecodable", message)))


def _refusal(error: StepError) -> dict[str, Any]:
    """What the parent is told; of a fault that want of memory caused, only that."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return {"kind": "error", "reason": TOO_LARGE}
        cause = cause.__cause__ or cause.__context__
    return {"kind": "error", "reason": error.reason, "message": error.message, "retryable": error.retryable}


def _answers(config: DecodeConfig, channel: Channel) -> dict[str, Answer]:
    """What each kind of request is answered by; loads the libraries."""
    import av

    from ravst_ray.media.audio import samples, waveform
    from ravst_ray.media.container import player_offset_s
    from ravst_ray.media.index import index_video
    from ravst_ray.media.sampling import sample_video

    av.logging.set_level(av.logging.PANIC)
    if config.backend != "pyav":
        from ravst_ray.media import decord_decoder  # noqa: F401

    def sample(request: dict[str, Any]) -> dict[str, Any]:
        pieces = _Pieces(channel)
        sampled = sample_video(request["path"], request["times_s"], config, pieces.add, request["sound"])
        pieces.flush()
        return asdict(sampled)

    def index(request: dict[str, Any]) -> dict[str, Any]:
        return {"meta": asdict(index_video(request["path"], max_pixels=config.max_pixels).meta)}

    def timeline(request: dict[str, Any]) -> dict[str, Any]:
        found = index_video(request["path"], max_pixels=config.max_pixels)
        return {
            "meta": asdict(found.meta),
            "container": found.container,
            "codec": found.codec,
            "pixels": found.pixels,
            "starts_s_T": found.starts_s_T.tolist(),
            "end_s": found.end_s,
            "player_offset_s": player_offset_s(request["path"]),
            "notes": found.notes(()),
        }

    def outline(request: dict[str, Any]) -> dict[str, Any]:
        found = waveform(request["path"], request["bins"], request["duration_s"])
        return {"outline": None if found is None else found.tolist()}

    def sound(request: dict[str, Any]) -> dict[str, Any]:
        found = samples(request["path"], request["duration_s"])
        if found is not None:
            channel.send({"kind": "samples"}, found.tobytes())
        return {"heard": found is not None}

    return {"sample": sample, "index": index, "timeline": timeline, "waveform": outline, "samples": sound}


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
