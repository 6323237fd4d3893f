"""Opening video files, and their pictures one after the other."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import NamedTuple

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ravst_ray.errors import StepError

# Only containers of video, only from the disk: a playlist or a script named .mp4 could make FFmpeg open other files.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
MAX_PIXELS = 7680 * 4320
_PRIMING_S = 0.1


def open_video(path: str) -> InputContainer:
    """Open a file that must be a video; the path is made absolute, so that no part of it is taken for a protocol.

    Titles and the like, of which nothing is used, may be in any encoding.
    """
    return av.open(os.path.abspath(path), options=_OPTIONS, metadata_errors="replace")


def picture_stream(container: InputContainer) -> VideoStream | None:
    """The best video stream; a cover picture of a sound file is none."""
    stream = container.streams.best("video")
    return stream if isinstance(stream, VideoStream) and not is_cover(stream) else None


def is_cover(stream: VideoStream) -> bool:
    """Whether a stream is the picture on a sound file."""
    return bool(stream.disposition & Disposition.attached_pic)


def origin_s(container: InputContainer) -> float:
    """Time 0 of the video, in the container's own time."""
    stream = picture_stream(container)
    container_s = (container.start_time or 0) / av.time_base
    if stream is None or stream.start_time is None or stream.time_base is None:
        return container_s
    picture_s = float(stream.start_time * stream.time_base)
    return picture_s if picture_s - container_s <= _PRIMING_S else container_s


def player_offset_s(path: str) -> float:
    """What Chromium adds to the times of the video: it counts as the container does, but never begins before 0.

    Measured with MP4 and WebM files whose pictures, sound, or both begin before 0, at it, and later.
    """
    with open_video(path) as container:
        return round(max(0.0, origin_s(container)), 6)


def check_pixels(name: str, width: int, height: int, max_pixels: int) -> None:
    """Refuse pictures that would take too much memory.

    Raises:
        StepError: ``too_many_pixels``.
    """
    if width * height > max_pixels:
        message = (
            f"{name}: {width}x{height} pixels are more than decode.max_pixels = {max_pixels}; scale the video down"
        )
        raise StepError("too_many_pixels", message)


def limit_pixels(stream: VideoStream, max_pixels: int) -> None:
    """Have the decoder itself refuse much larger pictures, also those that come later; before the first is decoded.

    It counts the padding of its buffers, too, hence the quarter more.
    """
    stream.codec_context.options = {"max_pixels": str(max_pixels + max_pixels // 4 + 2**16)}


class Broken(NamedTuple):
    """A packet that can't be decoded, and when its picture would be shown."""

    pts: int | None


def pictures(
    container: InputContainer, stream: VideoStream, wanted_pts: Collection[int] | None = None
) -> Iterator[VideoFrame | Broken]:
    """Decoded pictures from where the container stands, and what stands for those that can't be decoded.

    With ``wanted_pts``, a picture may be left out that isn't wanted and that no other picture needs.
    """
    for packet in container.demux(stream):
        if wanted_pts is not None:
            stream.codec_context.skip_frame = "DEFAULT" if packet.pts in wanted_pts else "NONREF"
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            yield Broken(packet.pts)
