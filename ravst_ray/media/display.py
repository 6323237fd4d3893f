"""From a decoded picture to what a player shows: square pixels, no combing, SDR colours, the right way round.

FFmpeg's filters do the work (bwdif deinterlaces, swscale converts colours and sizes); this module says which are
needed and tells it in words for the provenance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, TypeVar

import av
import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext
from av.video.frame import VideoFrame

UNTAGGED = 2
"""Of colour spaces, ITU-T H.273."""
_HD = (1280, 576)  # from this width on, or above this height, untagged colours are taken for BT.709, as players do
_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics, ITU-T H.273
_STRANGEST_PIXEL = 8  # pixels of a shape beyond 1:8 are taken for a damaged header

# A pixel is combed where four lines alternate: the even ones are alike, the odd ones are, and these differ from those
# by so much. A hundredth of such pixels is more than a picture of one moment has, whatever its lines and textures.
_COMB_LEVELS = 24
_COMBED_SHARE = 0.01
_COMB_COLUMNS = 3  # one of so many is looked at

T = TypeVar("T")


class Picture(NamedTuple):
    """A picture that was read.

    Attributes:
        rgb: uint8 ``[H, W, 3]``.
        combed: it is woven of two fields.
        damaged: it isn't what was encoded, or another stands for it.
    """

    rgb: np.ndarray
    combed: bool
    damaged: bool = False


@dataclass(frozen=True)
class Orientation:
    """How a picture is turned: columns and rows swapped first, then mirrored."""

    swapped: bool = False
    left_right: bool = False
    top_bottom: bool = False

    def __bool__(self) -> bool:
        return self.swapped or self.left_right or self.top_bottom

    def __str__(self) -> str:
        named = {
            (False, True, True): "turned by 180 degrees",
            (True, True, False): "turned right by 90 degrees",
            (True, False, True): "turned left by 90 degrees",
            (False, True, False): "mirrored left-right",
            (False, False, True): "mirrored top-bottom",
            (True, False, False): "turned right by 90 degrees and mirrored left-right",
            (True, True, True): "turned left by 90 degrees and mirrored left-right",
        }
        return named.get((self.swapped, self.left_right, self.top_bottom), "")

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """A view of ``[H, W, 3]`` that is turned."""
        turned = picture.swapaxes(0, 1) if self.swapped else picture
        return turned[:: -1 if self.top_bottom else 1, :: -1 if self.left_right else 1]


def orientation(frame: VideoFrame) -> Orientation:
    """What the display matrix says (ISO 14496-12: a, b, u, c, d, …), to the nearest quarter turn."""
    for data in (frame.side_data[number] for number in range(len(frame.side_data))):
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
            if abs(b) + abs(c) > abs(a) + abs(d):
                return Orientation(True, left_right=c < 0, top_bottom=b < 0)
            return Orientation(False, left_right=a < 0, top_bottom=d < 0)
    return Orientation()


@dataclass(frozen=True)
class Display:
    """What is done to the pictures of a file.

    Attributes:
        coded: width and height of the decoded pictures.
        square: the same in square pixels; only ever enlarged.
        orientation: how they are turned.
        tagged: they say by which matrix their colours are to be read, or aren't YUV.
        interlaced: their fields are of two moments, and they say so.
        hdr: "PQ" or "HLG", "" for standard range.
    """

    coded: tuple[int, int]
    square: tuple[int, int]
    orientation: Orientation
    tagged: bool
    interlaced: bool
    hdr: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as shown."""
        width, height = self.square
        return (height, width) if self.orientation.swapped else (width, height)

    @property
    def plain(self) -> bool:
        """Whether nothing is to be done."""
        return not (self.orientation or self.interlaced or self.hdr) and self.square == self.coded

    def notes(self) -> list[str]:
        """What is done, in words."""
        return [
            note
            for note in (
                "deinterlaced (bwdif)" if self.interlaced else "",
                f"{self.hdr} to SDR, 203 cd/m2 as white" if self.hdr else "",
                "{}x{} in square pixels".format(*self.square) if self.square != self.coded else "",
                str(self.orientation),
            )
            if note
        ]


def is_untagged_hd(size: tuple[int, int], tagged: bool) -> bool:
    """Whether pictures are of a size at which untagged colours mean BT.709, and FFmpeg would read them by BT.601."""
    return not tagged and (size[0] >= _HD[0] or size[1] > _HD[1])


def display_of(frame: VideoFrame, pixel_shape: Fraction | None, fields: bool = False) -> Display:
    """How the pictures of a file are shown.

    Args:
        frame: the first one.
        pixel_shape: width / height of a pixel, None where that isn't known.
        fields: the container says that pictures consist of fields.
    """
    coded = frame.width, frame.height
    shape = pixel_shape if pixel_shape and 1 <= max(pixel_shape, 1 / pixel_shape) <= _STRANGEST_PIXEL else Fraction(1)
    square = (round(coded[0] * shape), coded[1]) if shape > 1 else (coded[0], round(coded[1] / shape))
    tagged = int(frame.colorspace) != UNTAGGED or not frame.format.name.startswith("yuv")
    woven, hdr = fields or frame.interlaced_frame, _HDR.get(int(frame.color_trc), "")
    return Display(coded, square, orientation(frame), tagged, woven, hdr)


class Screen:
    """Turns decoded pictures into RGB of one size, as they are shown.

    Args:
        display: what is to be done.
        size: width and height of the result, in the shown orientation.
    """

    def __init__(self, display: Display, size: tuple[int, int]):
        self._display = display
        width, height = reversed(size) if display.orientation.swapped else size
        colours = ":out_transfer=bt709:out_primaries=bt709:intent=relative_colorimetric" if display.hdr else ""
        kernel = "bilinear" if (width, height) < display.coded else "bicubic"
        flags = f"{kernel}+accurate_rnd+full_chroma_int"
        if is_untagged_hd(display.coded, display.tagged):
            colours += ":in_color_matrix=bt709"
        self._scale = f"w={width}:h={height}:flags={flags}{colours}"
        self._chain: tuple[tuple[int, int, str], Chain] | None = None

    def show(self, frame: VideoFrame) -> np.ndarray:
        """A picture as uint8 RGB ``[H, W, 3]``."""
        kind = frame.width, frame.height, frame.format.name
        if self._chain is None or self._chain[0] != kind:
            self._chain = kind, Chain(frame, ("scale", self._scale), ("format", "rgb24"))
        (shown,) = self._chain[1].push(frame)
        return self._display.orientation.apply(shown.to_ndarray())


def deinterlaced(frames: Iterable[VideoFrame | T], every: bool) -> Iterator[VideoFrame | T]:
    """Consecutive pictures, each with the lines of its first field alone.

    Args:
        frames: in the order in which they are shown; one of another size begins anew; what is none is passed on.
        every: also those that aren't flagged as interlaced.
    """
    chain, kind = None, None
    for frame in frames:
        if not isinstance(frame, VideoFrame):
            yield frame
            continue
        if chain is None or kind != (frame.width, frame.height, frame.format.name):
            if chain is not None:
                yield from chain.end()
            kind = frame.width, frame.height, frame.format.name
            chain = Chain(frame, ("bwdif", f"mode=send_frame:deint={'all' if every else 'interlaced'}"))
        yield from chain.push(frame)
    if chain is not None:
        yield from chain.end()


class Chain:
    """A line of FFmpeg filters for pictures like the given one."""

    def __init__(self, like: VideoFrame, *filters: tuple[str, str]):
        self._time_base = like.time_base or Fraction(1, 1000)
        self._graph = Graph()
        last: FilterContext = self._graph.add_buffer(
            width=like.width, height=like.height, format=like.format, time_base=self._time_base
        )
        for name, arguments in (*filters, ("buffersink", "")):
            following = self._graph.add(name, arguments)
            last.link_to(following)
            last = following
        self._graph.configure()

    def push(self, frame: VideoFrame | None) -> Iterator[VideoFrame]:
        """The pictures that are ready once this one is in; None is the end."""
        self._graph.push(frame)
        while True:
            try:
                ready = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(ready, VideoFrame)
            if ready.pts is not None and ready.time_base:
                ready.pts = round(ready.pts * ready.time_base / self._time_base)
                ready.time_base = self._time_base
            yield ready

    def end(self) -> Iterator[VideoFrame]:
        """The pictures that are still held back."""
        return self.push(None)


def is_combed(luma: np.ndarray) -> bool:
    """Whether a picture (one channel ``[H, W]``, at its full height) is woven of two fields of a moving scene."""
    if len(luma) < 4:
        return False
    rows = luma[:, ::_COMB_COLUMNS].astype(np.int16)
    first, second, third, fourth = (rows[start : len(rows) - 3 + start] for start in range(4))
    alike = np.maximum(np.abs(first - third), np.abs(second - fourth)) < _COMB_LEVELS // 2
    return bool((alike & (np.abs(first - second) > _COMB_LEVELS)).mean() > _COMBED_SHARE)
