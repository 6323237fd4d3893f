"""What is in a video file: checks, and the index of its pictures, made by reading the packets without decoding them.

Time 0 is the first picture that is shown. A sound track that starts earlier by more than an encoder's priming means
that the file starts with sound alone; time 0 is then the start of the sound, as in a player.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ravst_ray.errors import StepError
from ravst_ray.records import VideoMeta

# Only containers of video, only from the disk: a playlist or a script named .mp4 could make FFmpeg open other files.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
_STATES_DURATION = ("mov", "matroska")
_PRIMING_S = 0.1
_TINY_S = 1e-3  # Matroska rounds times to milliseconds


@dataclass(frozen=True)
class VideoIndex:
    """The pictures of a video in the order in which they are shown.

    Attributes:
        pts_T: timestamps in units of ``time_base``, rising.
        starts_s_T: the same in seconds from the start of the video.
        end_s: when the last picture ends.
        keyframes: rising indices of the pictures from which decoding can start.
        hidden: number of packets that the container says to decode but not to show (edit lists).
        leading: number of pictures that are shown before the keyframe that they are stored after (open GOP).
        listed: number of packets that the container's own list of pictures has, 0 where it has no such list.
        rotation: degrees, counter-clockwise, by which a coded picture is turned to be shown: 0, 90, 180 or 270.
    """

    path: str
    meta: VideoMeta
    container: str
    time_base: Fraction
    pts_T: np.ndarray
    starts_s_T: np.ndarray
    end_s: float
    keyframes: np.ndarray
    hidden: int
    leading: int
    listed: int
    coded_width: int
    coded_height: int
    rotation: int

    def __len__(self) -> int:
        return len(self.pts_T)

    def shown_at(self, time_s: float) -> int | None:
        """Index of the picture shown at a time; None before the first and after the last one."""
        if time_s >= self.end_s:
            return None
        picture = int(np.searchsorted(self.starts_s_T, time_s + _TINY_S, side="right")) - 1
        return picture if picture >= 0 else None


def open_video(path: str) -> InputContainer:
    """Open a file that must be a video; the path is made absolute, so that no part of it is taken for a protocol."""
    return av.open(os.path.abspath(path), options=_OPTIONS)


def picture_stream(container: InputContainer) -> VideoStream | None:
    """The best video stream; a cover picture of a sound file is none."""
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        return None
    return stream


def origin_s(container: InputContainer) -> float:
    """Time 0 of the video, in the container's own time."""
    stream = picture_stream(container)
    container_s = (container.start_time or 0) / av.time_base
    if stream is None or stream.start_time is None or stream.time_base is None:
        return container_s
    picture_s = float(stream.start_time * stream.time_base)
    return picture_s if picture_s - container_s <= _PRIMING_S else container_s


def index_video(path: str) -> VideoIndex:
    """Check a file and index its pictures.

    Raises:
        StepError: ``missing_file``, ``not_a_file``, ``unreadable_file``, ``empty_file``, ``not_a_video``,
            ``truncated``, ``no_video_stream``, ``no_frames`` or ``undecodable``.
    """
    _check_file(path)
    try:
        with open_video(path) as container:
            return _index(path, container)
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


@dataclass
class _Packets:
    """What reading through a file's packets yields; times in units of the picture stream's time base."""

    shown: list[tuple[int, int, bool]]  # pts, duration, is a keyframe
    hidden: int
    leading: int
    last_s: float  # end of the last packet of any stream, in the container's time


def _read_packets(container: InputContainer, stream: VideoStream) -> _Packets:
    found, keyframe = _Packets([], 0, 0, 0.0), None
    for packet in container.demux():
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None or packet.time_base is None:
            continue
        found.last_s = max(found.last_s, float((time + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index != stream.index:
            continue
        if packet.is_keyframe:
            keyframe = time
        elif keyframe is not None and time < keyframe:
            found.leading += 1
        if packet.is_discard:
            found.hidden += 1
        else:
            found.shown.append((time, packet.duration or 0, packet.is_keyframe))
    found.shown.sort()
    return found


def _index(path: str, container: InputContainer) -> VideoIndex:
    name = Path(path).name
    if not container.streams:
        raise StepError("no_frames", f"{name} has a header and nothing else; download it again", retryable=True)
    stream = picture_stream(container)
    if stream is None:
        raise StepError("no_video_stream", f"{name} has no pictures, only sound or data")
    if stream.codec_context is None or stream.time_base is None:
        raise StepError("undecodable", f"{name}: no decoder for its pictures; convert it to H.264")
    time_base, start_s = stream.time_base, origin_s(container)
    packets = _read_packets(container, stream)
    if not packets.shown:
        raise StepError("no_frames", f"{name} has a video stream without a single picture")
    _check_complete(path, container, packets.last_s)
    pts_T = np.array([pts for pts, _, _ in packets.shown], dtype=np.int64)
    starts_s_T = np.round(pts_T * float(time_base) - start_s, 6)
    fps = _frames_per_second(stream, starts_s_T)
    end_s = round(float(starts_s_T[-1]) + (packets.shown[-1][1] * float(time_base) or 1 / fps), 6)
    width, height, rotation = _first_picture(path)
    shown_size = (height, width) if rotation in (90, 270) else (width, height)
    return VideoIndex(
        path=path,
        meta=VideoMeta(end_s, fps, *shown_size, has_audio=bool(container.streams.audio), decoder=""),
        container=container.format.name,
        time_base=time_base,
        pts_T=pts_T,
        starts_s_T=starts_s_T,
        end_s=end_s,
        keyframes=np.flatnonzero([key for _, _, key in packets.shown]),
        hidden=packets.hidden,
        leading=packets.leading,
        listed=stream.frames,
        coded_width=width,
        coded_height=height,
        rotation=rotation,
    )


def _check_complete(path: str, container: InputContainer, last_s: float) -> None:
    """Compare the end of the last packet with the duration that the container states, where it states one."""
    if not container.duration or not container.format.name.startswith(_STATES_DURATION):
        return
    stated_s = container.duration / av.time_base
    if container.format.name.startswith("mov"):  # Matroska states the end, MP4 the length
        stated_s += (container.start_time or 0) / av.time_base
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


def _first_picture(path: str) -> tuple[int, int, int]:
    """Coded width and height, and the rotation, which only a decoded picture tells."""
    with open_video(path) as container:
        for picture in pictures(container):
            return picture.width, picture.height, round(picture.rotation / 90) * 90 % 360
    raise StepError("undecodable", f"{Path(path).name}: none of its pictures can be decoded")


def pictures(container: InputContainer) -> Iterator[VideoFrame]:
    """Decoded pictures from where the container stands; broken packets are passed over."""
    for packet in container.demux(picture_stream(container)):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue
