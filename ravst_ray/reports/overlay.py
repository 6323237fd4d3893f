"""Boxes, names and sound marks drawn onto a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ravst_ray.records import Box, EventAnnotation, Track
from ravst_ray.reports.figures import PALETTE

_SUPERSAMPLE = 2
_HALO = (0, 0, 0, 150)
_TIME_TOLERANCE_S = 0.051
_MOST_LINKED = 6  # nodes; lines between more would hide the picture


@dataclass(frozen=True)
class TrackBox:
    """One object in one frame; ``box_xyxy_px`` in pixels of the image given to :func:`draw_frame`."""

    name: str
    box_xyxy_px: Box
    audible: bool
    color: str = PALETTE[0]


def track_colors(annotations: Sequence[EventAnnotation]) -> dict[tuple[int, int], str]:
    """A colour per (event_num, track_id); an object named alike in several events keeps its colour."""
    slots: dict[tuple[str, int], int] = {}
    colors: dict[tuple[int, int], str] = {}
    for annotation in annotations:
        seen: dict[str, int] = {}
        for track in annotation.tracks:
            nth = seen[track.name] = seen.get(track.name, -1) + 1
            slot = slots.setdefault((track.name, nth), len(slots))
            colors[annotation.event.event_num, track.track_id] = PALETTE[slot % len(PALETTE)]
    return colors


def tracks_at(tracks: Sequence[Track], time_s: float, colors: Mapping[int, str] | None = None) -> list[TrackBox]:
    """The tracks that have a box at ``time_s``; ``colors`` by track id, else the palette in order."""
    found = []
    for index, track in enumerate(tracks):
        color = (colors or {}).get(track.track_id, PALETTE[index % len(PALETTE)])
        for at_s, box in zip(track.times_s, track.boxes_xyxy_px, strict=True):
            if abs(at_s - time_s) <= _TIME_TOLERANCE_S:
                found.append(TrackBox(track.name, box, track.audible, color))
                break
    return found


def draw_frame(
    image: Image.Image | np.ndarray,
    tracks_at_time: Sequence[TrackBox],
    scale: float = 2.0,
    video_size: tuple[int, int] | None = None,
    labels: bool = True,
) -> Image.Image:
    """The frame, enlarged by ``scale``, with a box and a name chip per object.

    Solid lines and a loudspeaker mean audible, dashed lines silent.

    Args:
        image: RGB picture, or uint8 array ``[H, W, 3]``.
        tracks_at_time: what to draw, see :func:`tracks_at`.
        scale: enlargement; lines and text keep a size that reads well in the result.
        video_size: (width, height) that the boxes refer to, when it isn't the image's.
        labels: False leaves the chips out.

    Returns:
        An RGB picture of ``round(scale * size)`` pixels.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    base = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    from_width, from_height = video_size or picture.size
    factor = (size[0] * _SUPERSAMPLE / from_width, size[1] * _SUPERSAMPLE / from_height)
    canvas = _Canvas((size[0] * _SUPERSAMPLE, size[1] * _SUPERSAMPLE))
    boxes = [(track, _scaled(track.box_xyxy_px, factor)) for track in tracks_at_time]
    for track, box in boxes:
        canvas.box(box, track.color, dashed=not track.audible)
    if labels:
        for track, box in boxes:
            canvas.chip(box, track.name, track.color, track.audible)
    layer = canvas.layer.resize(size, Image.Resampling.BOX)
    return Image.alpha_composite(base, layer).convert("RGB")


def draw_graph(
    picture: Image.Image, dots: Sequence[tuple[str, tuple[float, float]]], color: str, dashed: bool
) -> Image.Image:
    """The picture with a dot and a name for each node of a graph, and lines between them.

    Args:
        picture: what to draw on.
        dots: labels with their places, as shares of width and height; what lies outside is drawn at the rim.
        color: of dots, lines and names.
        dashed: rings and dashes in place of dots and lines.
    """
    canvas = _Canvas((picture.width * _SUPERSAMPLE, picture.height * _SUPERSAMPLE))
    width, height = canvas.layer.size
    places = [(min(max(x, 0.0), 1.0) * width, min(max(y, 0.0), 1.0) * height) for _, (x, y) in dots]
    for one, other in combinations(places[:_MOST_LINKED], 2):
        canvas.link(one, other, color, dashed)
    for place in places:
        canvas.dot(place, color, dashed)
    for (label, _), (x, y) in zip(dots, places, strict=True):
        radius = 3 * canvas.line
        canvas.chip((x - radius, y - radius, x + radius, y + radius), label, color, audible=False)
    layer = canvas.layer.resize(picture.size, Image.Resampling.BOX)
    return Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")


def text_color(background: str) -> str:
    """Black or white, whichever reads better on ``background`` (WCAG relative luminance)."""
    channels = [value / 255 for value in ImageColor.getrgb(background)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.179 else "#FFFFFF"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"), size)


def _scaled(box: Box, factor: tuple[float, float]) -> Box:
    left, right = sorted((box[0] * factor[0], box[2] * factor[0]))
    top, bottom = sorted((box[1] * factor[1], box[3] * factor[1]))
    return left, top, right, bottom


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


class _Canvas:
    """A transparent layer, larger than the result, on which shapes are drawn; shrinking it smooths them."""

    def __init__(self, size: tuple[int, int]):
        self.layer = Image.new("RGBA", size, (0, 0, 0, 0))
        self.draw = ImageDraw.Draw(self.layer)
        unit = min(size) / 360
        self.line = _SUPERSAMPLE * max(1, round(unit * 3 / _SUPERSAMPLE))
        self.font = _font(max(10, round(unit * 17)))
        self.chips: list[Box] = []

    def box(self, box: Box, color: str, dashed: bool) -> None:
        """An outline whose line is centred on the box's edge, with a dark halo that shows on any picture."""
        half, halo = self.line / 2, self.line / 2 + _SUPERSAMPLE / 2
        left, top, right, bottom = (round(value / _SUPERSAMPLE) * _SUPERSAMPLE for value in self._inside(box, half))
        sides = [(left, top, right, top), (right, top, right, bottom), (right, bottom, left, bottom)]
        sides.append((left, bottom, left, top))
        for pad, fill in ((halo, _HALO), (half, color)):
            for side in sides:
                for x1, y1, x2, y2 in self._dashes(side) if dashed else [side]:
                    corners = (min(x1, x2) - pad, min(y1, y2) - pad, max(x1, x2) + pad - 1, max(y1, y2) + pad - 1)
                    self.draw.rectangle(corners, fill=fill)

    def _inside(self, box: Box, half: float) -> Box:
        width, height = self.layer.size
        return (
            min(max(box[0], half), width - half),
            min(max(box[1], half), height - half),
            min(max(box[2], half), width - half),
            min(max(box[3], half), height - half),
        )

    def _dashes(self, side: tuple[float, float, float, float]) -> list[tuple[float, float, float, float]]:
        """The side cut into an odd number of equal parts, every other one kept, so that corners are closed."""
        x1, y1, x2, y2 = side
        length = max(abs(x2 - x1), abs(y2 - y1))
        parts = max(1, round(length / (3.5 * self.line)) // 2 * 2 + 1)
        inset = self.line / 2 / length if length else 0.0  # dashes are drawn longer by half a line at both ends
        dashes = []
        for part in range(0, parts, 2):
            low = part / parts + inset * (part > 0)
            high = (part + 1) / parts - inset * (part < parts - 1)
            dashes.append((x1 + (x2 - x1) * low, y1 + (y2 - y1) * low, x1 + (x2 - x1) * high, y1 + (y2 - y1) * high))
        return dashes

    def dot(self, place: tuple[float, float], color: str, hollow: bool) -> None:
        """A disc, or a ring, with a dark halo."""
        x, y = place
        for radius, fill in ((3 * self.line, _HALO), (2.5 * self.line, color)):
            self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        if hollow:
            radius = 1.4 * self.line
            self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(0, 0, 0, 0))

    def link(self, one: tuple[float, float], other: tuple[float, float], color: str, dashed: bool) -> None:
        """A line between two places."""
        side = (*one, *other)
        for x1, y1, x2, y2 in self._dashes(side) if dashed else [side]:
            self.draw.line((x1, y1, x2, y2), fill=color, width=max(2, round(self.line * 0.6)))

    def chip(self, box: Box, name: str, color: str, audible: bool) -> None:
        """The name on a coloured plate at the box, where no other plate is, with a loudspeaker when audible."""
        pad = self.line * 1.6
        text = self._fitted(name)
        icon = self.font.size * 0.95 + pad * 0.7 if audible else 0.0
        width = self.draw.textlength(text, font=self.font) + 2 * pad + icon
        height = self.font.size + 1.3 * pad
        place = self._place(box, width, height)
        self.chips.append(place)
        ink = text_color(color)
        self.draw.rounded_rectangle(place, radius=height * 0.28, fill=color, outline=_HALO, width=_SUPERSAMPLE)
        middle = (place[1] + place[3]) / 2
        self.draw.text((place[0] + pad + icon, middle), text, fill=ink, font=self.font, anchor="lm")
        if audible:
            self._speaker(place[0] + pad, middle, self.font.size * 0.95, ink)

    def _fitted(self, name: str) -> str:
        """The name, cut to half the picture's width."""
        room = self.layer.width * 0.5
        if self.draw.textlength(name, font=self.font) <= room:
            return name
        while name and self.draw.textlength(name + "…", font=self.font) > room:
            name = name[:-1]
        return name.rstrip() + "…"

    def _place(self, box: Box, width: float, height: float) -> Box:
        gap = self.line / 2 + _SUPERSAMPLE / 2
        left, right = box[0] - gap, box[2] + gap - width
        tops = (box[1] - gap - height, box[3] + gap, box[1] + gap, box[3] - gap - height)
        spots = [self._clamped(x, y, width, height) for y in tops[:2] for x in (left, right)]
        spots += [self._clamped(left + gap * 2, y, width, height) for y in tops[2:]]
        spots += [self._clamped(left, tops[0] - step * height, width, height) for step in range(1, 6)]
        free = (spot for spot in spots if not any(_overlap(spot, chip) for chip in self.chips))
        return next(free, spots[0])

    def _clamped(self, x: float, y: float, width: float, height: float) -> Box:
        x = max(0.0, min(x, self.layer.width - 1 - width))
        y = max(0.0, min(y, self.layer.height - 1 - height))
        return x, y, x + width, y + height

    def _speaker(self, x: float, y: float, size: float, ink: str) -> None:
        body = [(0.0, -0.16), (0.18, -0.16), (0.42, -0.4), (0.42, 0.4), (0.18, 0.16), (0.0, 0.16)]
        self.draw.polygon([(x + u * size, y + v * size) for u, v in body], fill=ink)
        for radius in (0.25, 0.46):
            centre, reach = x + 0.44 * size, radius * size
            bounds = (centre - reach, y - reach, centre + reach, y + reach)
            self.draw.arc(bounds, -48, 48, fill=ink, width=max(2, round(size * 0.09)))
