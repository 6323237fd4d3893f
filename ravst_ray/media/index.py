"""What is in a video file: checks, and the index of its pictures, made by reading the packets without decoding them.

Time 0 is the first picture that is shown. A sound track that starts earlier by more than an encoder's priming means
that the file starts with sound alone; time 0 is then the start of the sound, as in a player, and the first picture
stands for the time before it. Everybody who asks for pictures or sound gets this time from here.

Of a file that lasts much longer than what is wanted of it, only that part is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from ravst_ray.errors import StepError
from ravst_ray.media.container import (
    MAX_PIXELS,
    Broken,
    check_pixels,
    is_cover,
    limit_pixels,
    open_video,
    origin_s,
    picture_stream,
    pictures,
)
from ravst_ray.media.display import Display, display_of
from ravst_ray.media.packets import Packets, read_packets
from ravst_ray.records import VideoMeta

_STATES_DURATION = ("mov", "matroska")
_TINY_S = 1e-3  # Matroska rounds times to milliseconds
_FIELDS = 2  # FFmpeg's orders of fields begin there; below are unknown and progressive
_MARGIN_S = 10.0  # read beside what is wanted: a keyframe before it, the sound around it
_MUCH_LONGER_S = 120.0


@dataclass(frozen=True)
class Span:
    """A part of a video, in seconds from its start."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class VideoIndex:
    """The pictures of a video in the order in which they are shown.

    Attributes:
        path: of the file.
        meta: what the reader of the pictures is told of them.
        container: FFmpeg's names of the format.
        codec: FFmpeg's name of the codec.
        pixels: FFmpeg's name of the pixel format.
        time_base: seconds, the unit of ``pts_T``.
        pts_T: timestamps, rising.
        starts_s_T: the same in seconds from the start of the video.
        end_s: when the last picture ends.
        counted: the container has no times of presentation: the n-th picture that comes out is the one at ``pts_T[n]``.
        keyframes: rising indices of the pictures from which decoding can start.
        clean: every keyframe is one before which nothing is needed (IDR), and no picture that follows it in the file
            is shown before it (open GOP).
        hidden: number of packets that the container says to decode but not to show (edit lists).
        listed: number of packets that the container's own list of pictures has, 0 where it has no such list.
        video_streams: how many there are, cover pictures aside; the best one is read.
        display: what is done to the pictures.
        part: what was read of a long file, None for all of it.
    """

    path: str
    meta: VideoMeta
    container: str
    codec: str
    pixels: str
    time_base: Fraction
    pts_T: np.ndarray
    starts_s_T: np.ndarray
    end_s: float
    counted: bool
    keyframes: np.ndarray
    clean: bool
    hidden: int
    listed: int
    video_streams: int
    display: Display
    part: Span | None

    def __len__(self) -> int:
        return len(self.pts_T)

    def shown_at(self, time_s: float) -> int | None:
        """Index of the picture shown at a time, the first one before it begins; None after the last one."""
        if time_s >= self.end_s:
            return None
        return max(0, int(np.searchsorted(self.starts_s_T, time_s + _TINY_S, side="right")) - 1)

    def notes(self, times_s: Sequence[float]) -> list[str]:
        """What one should know of the pictures at these times, in words."""
        first_s = float(self.starts_s_T[0])
        late = bool(times_s) and times_s[0] + _TINY_S < first_s
        return [
            *self.display.notes(),
            *([f"the first picture, of {first_s:.1f} s, stands for the time before it"] if late else []),
            *([f"1 of {self.video_streams} video streams"] if self.video_streams > 1 else []),
            *([f"read from {self.part.start_s:.0f} to {self.part.end_s:.0f} s"] if self.part else []),
        ]


def index_video(path: str, times_s: Sequence[float] = (), max_pixels: int = MAX_PIXELS) -> VideoIndex:
    """Check a file and index its pictures.

    Args:
        path: of the file.
        times_s: what is wanted, sorted; where the file lasts much longer, the rest isn't read. Nothing: all of it.
        max_pixels: larger pictures are refused.

    Raises:
        StepError: ``missing_file``, ``not_a_file``, ``unreadable_file``, ``empty_file``, ``not_a_video``,
            ``truncated``, ``no_video_stream``, ``no_frames``, ``odd_times``, ``too_many_pixels`` or ``undecodable``.
    """
    _check_file(path)
    try:
        index = None
        if times_s:
            with open_video(path) as container:
                index = _index(path, container, Span(times_s[0], times_s[-1]), max_pixels)
        if index is None:
            with open_video(path) as container:
                index = _index(path, container, None, max_pixels)
        assert index is not None
        return index
    except av.error.PermissionError:
        raise _unreadable(path, "no permission") from None
    except av.error.FFmpegError as error:
        raise _not_a_video(path, error) from None


def _check_file(path: str) -> None:
    name = Path(path).name
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise StepError("missing_file", f"{path}: no such file; put it there and run again", retryable=True) from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from None
    if not stat.S_ISREG(found.st_mode):
        raise StepError("not_a_file", f"{name} is a directory, a pipe or a device; a video file is needed")
    if found.st_size == 0:
        raise StepError("empty_file", f"{name} is empty; download it again", retryable=True)
    if not os.access(path, os.R_OK):
        raise _unreadable(path, "no permission")


def _unreadable(path: str, why: str) -> StepError:
    return StepError("unreadable_file", f"{Path(path).name} can't be read: {why}", retryable=True)


def _truncated(path: str, what: str) -> StepError:
    message = f"{Path(path).name} was cut while it was written or downloaded: {what}; download it again"
    return StepError("truncated", message, retryable=True)


def _not_a_video(path: str, error: av.FFmpegError) -> StepError:
    with open(path, "rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return _truncated(path, "it has no index (moov)")
    kinds = "MP4, Matroska, WebM, AVI, MPEG or FLV"
    return StepError("not_a_video", f"{Path(path).name} is no video file ({kinds}): {error.strerror or error}")


def _stated_end_s(container: InputContainer) -> float | None:
    """When the container says that it ends, in its own time; None where it doesn't say."""
    if not container.duration or not container.format.name.startswith(_STATES_DURATION):
        return None
    end = container.duration / av.time_base
    if container.format.name.startswith("mov"):  # Matroska states the end, MP4 the length
        end += (container.start_time or 0) / av.time_base
    return end


def _part(container: InputContainer, wanted: Span | None, start_s: float) -> Span | None:
    """The part to read of a file that lasts much longer than what is wanted, None for all of it."""
    stated_s = _stated_end_s(container)
    if wanted is None or stated_s is None:
        return None
    return long_span((wanted.start_s, wanted.end_s), stated_s - start_s)


def long_span(times_s: Sequence[float], length_s: float) -> Span | None:
    """The part to read for these times of what lasts much longer, None for all of it."""
    if not times_s:
        return None
    part = Span(max(0.0, times_s[0] - _MARGIN_S), times_s[-1] + _MARGIN_S)
    return part if length_s > part.end_s - part.start_s + _MUCH_LONGER_S else None


def _read_part(container: InputContainer, stream: VideoStream, part: Span, wanted: Span, start_s: float) -> Packets:
    """The packets of a part, empty where the container can't find it."""
    assert stream.time_base is not None
    try:
        container.seek(int((part.start_s + start_s) / stream.time_base), stream=stream, backward=True)
    except av.error.FFmpegError:  # no keyframe before it
        return Packets([])
    packets = read_packets(container, stream, part.end_s + start_s)
    found_s = packets.shown[0][0] * float(stream.time_base) - start_s if packets.shown else float("inf")
    if part.start_s > 0 and found_s > wanted.start_s:
        packets.shown.clear()
    return packets


def _index(path: str, container: InputContainer, wanted: Span | None, max_pixels: int) -> VideoIndex | None:
    """None where a part is wanted, and can't be found by itself."""
    name = Path(path).name
    if not container.streams:
        raise StepError("no_frames", f"{name} has a header and nothing else; download it again", retryable=True)
    stream = picture_stream(container)
    if stream is None:
        raise StepError("no_video_stream", f"{name} has no pictures, only sound or data")
    if stream.codec_context is None or stream.time_base is None:
        raise StepError("undecodable", f"{name}: no decoder for its pictures; convert it to H.264")
    check_pixels(name, stream.codec_context.width, stream.codec_context.height, max_pixels)
    time_base, start_s = stream.time_base, origin_s(container)
    part = _part(container, wanted, start_s)
    if part and wanted:
        packets = _read_part(container, stream, part, wanted, start_s)
        if not packets.shown:
            return None
    else:
        packets = read_packets(container, stream, None)
    if not packets.shown:
        raise StepError("no_frames", f"{name} has a video stream without a single picture")
    if packets.whole:
        _check_complete(path, container, packets.last_s)
    pts_T = np.array([pts for pts, _, _ in packets.shown], dtype=np.int64)
    starts_s_T = np.round(pts_T * float(time_base) - start_s, 6)
    fps = _frames_per_second(stream, starts_s_T)
    end_s = round(float(starts_s_T[-1]) + (packets.shown[-1][1] * float(time_base) or 1 / fps), 6)
    if not packets.whole:
        end_s = max(end_s, round((_stated_end_s(container) or 0.0) - start_s, 6))
    display = _first_display(path, max_pixels)
    cameras = [one for one in container.streams.video if not is_cover(one)]
    return VideoIndex(
        path=path,
        meta=VideoMeta(end_s, fps, *display.size, has_audio=bool(container.streams.audio), decoder=""),
        container=container.format.name,
        codec=stream.codec_context.name,
        pixels=stream.codec_context.pix_fmt or "",
        time_base=time_base,
        pts_T=pts_T,
        starts_s_T=starts_s_T,
        end_s=end_s,
        counted=packets.counted,
        keyframes=np.flatnonzero([key for _, _, key in packets.shown]),
        clean=packets.clean,
        hidden=packets.hidden,
        listed=stream.frames,
        video_streams=len(cameras),
        display=display,
        part=part,
    )


def _check_complete(path: str, container: InputContainer, last_s: float) -> None:
    """Compare the end of the last packet with the duration that the container states, where it states one."""
    stated_s = _stated_end_s(container)
    if stated_s is None:
        return
    if last_s < stated_s - max(0.5, 0.05 * stated_s):
        raise _truncated(path, f"it ends at {last_s:.1f} s of {stated_s:.1f} s")


def _frames_per_second(stream: VideoStream, starts_s_T: np.ndarray) -> float:
    """The stated rate where it agrees with the timestamps (some AVI files state 1000), else the measured one."""
    stated = float(stream.average_rate or stream.guessed_rate or 0)
    span_s = float(starts_s_T[-1] - starts_s_T[0])
    if span_s <= 0:
        return stated or 1.0
    measured = (len(starts_s_T) - 1) / span_s
    return stated if abs(stated - measured) <= 0.01 * measured else measured


def _first_display(path: str, max_pixels: int) -> Display:
    """How the pictures are shown, which only a decoded one tells."""
    name = Path(path).name
    with open_video(path) as container:
        stream = picture_stream(container)
        assert stream is not None and stream.codec_context is not None
        limit_pixels(stream, max_pixels)
        for picture in pictures(container, stream):
            if isinstance(picture, Broken):
                continue
            check_pixels(name, picture.width, picture.height, max_pixels)
            fields = int(stream.codec_context.field_order) >= _FIELDS
            return display_of(picture, stream.sample_aspect_ratio, fields)
    raise StepError("undecodable", f"{name}: none of its pictures can be decoded")
