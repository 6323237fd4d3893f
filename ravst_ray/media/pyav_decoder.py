"""Reading chosen pictures with PyAV: onwards from keyframe to keyframe, one picture in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import av
import numpy as np

from ravst_ray.media.index import VideoIndex, open_video, picture_stream, pictures

NAME = f"pyav {av.__version__}"
THREADS = 1
_SEEK_GAP = 8  # pictures; below that decoding on is cheaper than a seek


def read_pictures(index: VideoIndex, wanted: Sequence[int]) -> Iterator[np.ndarray]:
    """The pictures with these rising indices, as they are shown: uint8 RGB ``[H, W, 3]``.

    A picture that can't be decoded is given as the one shown before it.
    """
    with open_video(index.path) as container:
        stream = picture_stream(container)
        assert stream is not None
        stream.codec_context.thread_count = THREADS
        walk = _Walk(index, container)
        for number in wanted:
            yield _to_rgb(walk.to(number), index)


class _Walk:
    """A position in a video that only moves forwards."""

    def __init__(self, index: VideoIndex, container: av.container.InputContainer):
        self._index = index
        self._container = container
        self._frames = pictures(container)
        self._number = -1
        self._shown: av.VideoFrame | None = None
        self._ahead: av.VideoFrame | None = None

    def to(self, number: int) -> av.VideoFrame:
        """The picture with this index, or the last good one before it."""
        keyframe = self._keyframe_before(number)
        if keyframe - self._number > _SEEK_GAP:
            self._seek(keyframe)
        self._number = number
        return self._advance(int(self._index.pts_T[number]))

    def _keyframe_before(self, number: int) -> int:
        place = int(np.searchsorted(self._index.keyframes, number, side="right")) - 1
        return int(self._index.keyframes[place]) if place >= 0 else 0

    def _seek(self, keyframe: int) -> None:
        pts = int(self._index.pts_T[keyframe])
        self._restart(pts)
        if self._ahead is None or self._ahead.pts > pts:  # an inexact seek went too far
            self._restart(int(self._index.pts_T[0]))

    def _restart(self, pts: int) -> None:
        self._container.seek(pts, stream=picture_stream(self._container), backward=True)
        self._frames = pictures(self._container)
        self._shown, self._ahead = None, self._next()

    def _next(self) -> av.VideoFrame | None:
        return next((frame for frame in self._frames if frame.pts is not None), None)

    def _advance(self, pts: int) -> av.VideoFrame:
        while self._shown is None or self._shown.pts < pts:
            following = self._ahead or self._next()
            self._ahead = None
            if following is None:
                break
            if self._shown is not None and following.pts > pts:
                self._ahead = following
                break
            self._shown = following
        if self._shown is None:
            raise av.error.InvalidDataError(0, "no picture can be decoded", self._index.path)
        return self._shown


def _to_rgb(frame: av.VideoFrame, index: VideoIndex) -> np.ndarray:
    size = {"width": index.coded_width, "height": index.coded_height}
    rgb = frame.to_ndarray(format="rgb24", interpolation="BICUBIC", **size)
    return np.rot90(rgb, index.rotation // 90)
