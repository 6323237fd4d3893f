"""Reading chosen pictures with PyAV: onwards from keyframe to keyframe, one picture in memory.

Pictures that nobody wants and no other picture needs aren't decoded, and a picture is scaled as it is converted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame

from ravst_ray.media.container import Broken, limit_pixels, open_video, picture_stream, pictures
from ravst_ray.media.display import Picture, Screen, deinterlaced, is_combed
from ravst_ray.media.index import VideoIndex

NAME = f"pyav {av.__version__}"
THREADS = 1
_SEEK_GAP = 8  # pictures; below that decoding on is cheaper than a seek
_SEEKING = ("mov", "matroska", "mpegts", "flv")  # after a seek in others, MPEG programs say, times are wrong
_SKIPPING = ("h264", "hevc")  # codecs whose decoders were measured to skip what isn't needed, and nothing else


def read_pictures(
    index: VideoIndex, wanted: Sequence[int], size: tuple[int, int], max_pixels: int, combed: bool = False
) -> Iterator[Picture]:
    """The pictures with these rising indices, as they are shown.

    One that can't be decoded is given as the one shown before it, and said to be damaged.

    Args:
        index: of the file.
        wanted: numbers of pictures.
        size: width and height of the result.
        max_pixels: larger pictures aren't decoded.
        combed: deinterlace pictures that don't say that they are interlaced, too.
    """
    with open_video(index.path) as container:
        walk, screen = _Walk(index, container, wanted, max_pixels, combed), Screen(index.display, size)
        for number in wanted:
            found = walk.to(number)
            woven = not combed and _is_woven(found.frame, index.display.interlaced)
            yield Picture(screen.show(found.frame), woven, damaged=found.number != number or found.doubtful)


class _Found(NamedTuple):
    """A decoded picture; ``doubtful`` where something that it may need was broken."""

    number: int
    frame: VideoFrame
    doubtful: bool


class _Walk:
    """A position in a video that only moves forwards."""

    def __init__(
        self, index: VideoIndex, container: InputContainer, wanted: Sequence[int], max_pixels: int, combed: bool
    ):
        self._index, self._container, self._combed = index, container, combed
        stream = picture_stream(container)
        assert stream is not None
        self._stream = stream
        limit_pixels(stream, max_pixels)
        stream.codec_context.thread_count = THREADS
        self._fields = combed or index.display.interlaced
        skipping = index.codec in _SKIPPING and not self._fields and not index.counted
        self._seeks = not index.counted and index.container.startswith(_SEEKING)
        self._wanted_pts = {int(index.pts_T[number]) for number in wanted} if skipping else None
        self._number = -1
        self._shown: _Found | None = None
        self._ahead: _Found | None = None
        if index.part:
            self._seek(0)
        else:
            self._pictures = self._numbered()

    def to(self, number: int) -> _Found:
        """The picture with this index, or the last good one before it."""
        keyframe = self._keyframe_before(number)
        if self._seeks and keyframe - self._number > _SEEK_GAP:
            self._seek(keyframe)
        self._number = number
        return self._advance(number)

    def _keyframe_before(self, number: int) -> int:
        place = int(np.searchsorted(self._index.keyframes, number, side="right")) - 1
        return int(self._index.keyframes[place]) if place >= 0 else 0

    def _seek(self, keyframe: int) -> None:
        """Stand before a keyframe; some containers seek by times of decoding, and end up behind it."""
        place = int(np.searchsorted(self._index.keyframes, keyframe))
        earlier = self._index.keyframes[max(0, place - 2) : place][::-1].tolist()
        for start in dict.fromkeys((keyframe, *earlier, 0)):
            self._restart(start)
            if self._ahead is not None and self._ahead.number <= keyframe:
                return

    def _restart(self, number: int) -> None:
        self._container.seek(int(self._index.pts_T[number]), stream=self._stream, backward=True)
        self._pictures = self._numbered()
        self._shown, self._ahead = None, next(self._pictures, None)

    def _numbered(self) -> Iterator[_Found]:
        """Pictures from here on, with the number -1 for what comes before the index begins."""
        frames = pictures(self._container, self._stream, self._wanted_pts)
        if self._fields:
            frames = deinterlaced(frames, every=self._combed)
        count, broken_pts = -1, None  # damage spreads to what follows, until a keyframe behind it
        for frame in frames:
            count += 1
            pts = frame.pts
            if isinstance(frame, Broken):
                broken_pts = max(pts or 0, broken_pts or 0)
                continue
            if broken_pts is not None and frame.key_frame and (pts is None or pts > broken_pts):
                broken_pts = None
            if frame.is_corrupt:
                broken_pts = max(pts or 0, broken_pts or 0)
            if self._index.counted:
                yield _Found(count, frame, broken_pts is not None)
            elif pts is not None:
                number = int(np.searchsorted(self._index.pts_T, pts, side="right")) - 1
                yield _Found(number, frame, broken_pts is not None)

    def _advance(self, number: int) -> _Found:
        while self._shown is None or self._shown.number < number:
            following = self._ahead or next(self._pictures, None)
            self._ahead = None
            if following is None:
                break
            if self._shown is not None and following.number > number:
                self._ahead = following
                break
            self._shown = following
        if self._shown is None:
            raise av.error.InvalidDataError(0, "no picture can be decoded", self._index.path)
        return self._shown


def _is_woven(frame: VideoFrame, deinterlaced: bool) -> bool:
    """Whether a picture says that it is interlaced, and nobody has changed that, or looks so."""
    if frame.interlaced_frame and not deinterlaced:
        return True
    luma = _luma(frame)
    return luma is not None and is_combed(luma)


def _luma(frame: VideoFrame) -> np.ndarray | None:
    if not frame.format.name.startswith(("yuv4", "yuvj4")) or frame.format.components[0].bits != 8:
        return None
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
