"""The video files of an output: where they are, pieces of them for a player, pictures and sound for everything else.

A file is looked up in a folder's listing by the id of a row; no text of a request or a row becomes a path.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import fs

from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.datasets.places import is_remote, local_copy, resolve, video_files
from ravst_ray.datasets.unav import VideoFiles, is_safe_id
from ravst_ray.errors import ConfigError, StepError
from ravst_ray.logs import get_logger
from ravst_ray.media.decoding import ChildDecoder
from ravst_ray.media.protocols import Timeline

log = get_logger(__name__)

_LIST_EVERY_S = 30.0  # a folder is listed again where a file was missing
_PIECE_BYTES = 2**18
_DECODERS = 2
_DECODING = DecodeConfig.model_validate(
    {"backend": "pyav", "max_side_px": 1280, "jpeg_quality": 88, "deadline_s": 60.0}
)
_MIME = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm", ".mkv": "video/webm"}
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
# What all of today's browsers play; others may play more.
_CONTAINERS = ("mov", "matroska")
_CODECS = {"h264": ("yuv420p", "yuvj420p"), "vp8": ("yuv420p",), "vp9": ("yuv420p",), "av1": ("yuv420p",)}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A file that is there."""

    place: str
    size: int

    @property
    def mime(self) -> str:
        """What a browser is told that it is."""
        return _MIME.get(os.path.splitext(self.place.partition("?")[0])[1].lower(), "application/octet-stream")


class Videos:
    """The files of one folder, at any place.

    Args:
        folder: a path or a URI.
    """

    def __init__(self, folder: str):
        self._folder = folder
        self._lock = threading.Lock()
        self._listed: VideoFiles | None = None
        self._listed_at = 0.0

    def find(self, video_id: str) -> VideoFile:
        """The file of a video.

        Raises:
            StepError: ``missing_file``, ``unsafe_id``, ``ambiguous_file``, or the folder can't be listed
                (``place_unreachable``).
        """
        if not is_safe_id(video_id):
            raise StepError("unsafe_id", "The id of this video can't be the name of a file.")
        try:
            for fresh in (False, True):
                place = self._files(fresh).place(video_id)
                filesystem, base = resolve(place)
                found = filesystem.get_file_info(base)
                if found.type == fs.FileType.File:
                    return VideoFile(place, found.size)
        except ConfigError as error:
            raise StepError("place_unreachable", str(error)) from None
        except ValueError as error:
            raise StepError("ambiguous_file", str(error)) from None
        except OSError as error:
            raise StepError("place_unreachable", f"{self._folder}: {error}") from None
        raise StepError("missing_file", f"{video_id}: no video of this name in {self._folder.partition('?')[0]}")

    def _files(self, fresh: bool) -> VideoFiles:
        with self._lock:
            old = time.monotonic() - self._listed_at > _LIST_EVERY_S
            if self._listed is None or (fresh and old):
                self._listed = video_files(self._folder)
                self._listed_at = time.monotonic()
            return self._listed


def found_file(find: Callable[[str], VideoFile], video_id: str) -> dict[str, Any]:
    """What a page is told of a video's file, or of why there is none."""
    try:
        file = find(video_id)
    except StepError as error:
        return {"found": False, "why_not": error.message, "mime": None, "bytes": None}
    return {"found": True, "why_not": None, "mime": file.mime, "bytes": file.size}


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte that a ``Range`` header asks for; None for all (no header, several ranges, another unit).

    Raises:
        ValueError: there are no such bytes.
    """
    match = _RANGE.fullmatch((header or "").strip())
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    start = max(size - int(last), 0) if not first else int(first)
    end = size - 1 if not first or not last else min(int(last), size - 1)
    if start > end or (not first and int(last) == 0):
        raise ValueError(f"no bytes {header} in {size}")
    return start, end


def pieces(file: VideoFile, first: int, last: int) -> Iterator[bytes]:
    """The bytes of a file from one to another, some at a time."""
    filesystem, base = resolve(file.place)
    with filesystem.open_input_file(base) as source:
        source.seek(first)
        left = last - first + 1
        while left > 0 and (piece := source.read(min(_PIECE_BYTES, left))):
            left -= len(piece)
            yield piece


def why_unplayable(timeline: Timeline) -> str | None:
    """A sentence why a browser may not play a file, None where it should."""
    if not timeline.container.startswith(_CONTAINERS):
        return f"Browsers don't play {timeline.container.partition(',')[0]} files."
    if timeline.codec not in _CODECS:
        return f"Not every browser plays {timeline.codec}."
    if timeline.pixels not in _CODECS[timeline.codec]:
        return f"Not every browser plays {timeline.codec} in {timeline.pixels}."
    return None


class Pictures:
    """Reads video files in child processes, a few at a time; files of an object store through copies.

    Args:
        kept_bytes: of copies that are kept for the next question.
    """

    def __init__(self, kept_bytes: int):
        self._copies = _Copies(kept_bytes)
        self._threads = ThreadPoolExecutor(_DECODERS, "decoder")  # a child lives as long as the thread that started it
        self._own = threading.local()
        self._decoders: list[ChildDecoder] = []

    def warm(self) -> None:
        """Have a child process started before the first question."""

        def start() -> None:
            with contextlib.suppress(StepError):  # there is no such file
                self._decoder().index("")

        self._threads.submit(start)

    def close(self) -> None:
        """End the child processes and remove the copies."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()
        self._copies.close()

    def timeline(self, file: VideoFile) -> Future[Timeline]:
        """When its pictures are shown; ``StepError`` for a file that can't be used, here and below."""
        return self._do(file, lambda decoder, path: decoder.timeline(path))

    def jpeg(self, file: VideoFile, time_s: float) -> Future[bytes | None]:
        """The picture shown at a time, None past the end."""
        return self._do(file, lambda decoder, path: next(iter(decoder.decode(path, [time_s]).frames.jpegs), None))

    def peaks(self, file: VideoFile, bins: int, duration_s: float) -> Future[list[list[float]] | None]:
        """Lowest and highest sample of each of so many parts of the video, None without sound."""

        def outline(decoder: ChildDecoder, path: str) -> list[list[float]] | None:
            found = decoder.waveform(path, bins, duration_s)
            return None if found is None else [[round(low, 4), round(high, 4)] for low, high in found.tolist()]

        return self._do(file, outline)

    def _do(self, file: VideoFile, action: Callable[[ChildDecoder, str], T]) -> Future[T]:
        def work() -> T:
            with self._copies.of(file) as path:
                return action(self._decoder(), path)

        return self._threads.submit(work)

    def _decoder(self) -> ChildDecoder:
        """That of this thread."""
        if not hasattr(self._own, "decoder"):
            self._own.decoder = ChildDecoder(_DECODING, sound=False)
            self._decoders.append(self._own.decoder)
        found: ChildDecoder = self._own.decoder
        return found


@dataclass(slots=True)
class _Copy:
    stack: ExitStack
    path: str
    size: int
    lock: threading.Lock
    users: int = 0


class _Copies:
    """Files on this machine: their own, or copies of those in an object store, of which the last used are kept."""

    def __init__(self, kept_bytes: int):
        self._kept_bytes = kept_bytes
        self._lock = threading.Lock()
        self._copies: OrderedDict[str, _Copy] = OrderedDict()

    @contextmanager
    def of(self, file: VideoFile) -> Iterator[str]:
        if not is_remote(file.place):
            yield file.place
            return
        with self._lock:
            copy = self._copies.setdefault(file.place, _Copy(ExitStack(), "", file.size, threading.Lock()))
            self._copies.move_to_end(file.place)
            copy.users += 1
        try:
            with copy.lock:
                if not copy.path or not Path(copy.path).exists():
                    copy.path = copy.stack.enter_context(local_copy(file.place))
            yield copy.path
        finally:
            with self._lock:
                copy.users -= 1
                self._let_go()

    def _let_go(self) -> None:
        for place, copy in list(self._copies.items()):
            if sum(one.size for one in self._copies.values()) <= self._kept_bytes:
                return
            if not copy.users:
                del self._copies[place]
                copy.stack.close()

    def close(self) -> None:
        for copy in self._copies.values():
            copy.stack.close()
        self._copies.clear()
