"""A question's reference graph as a small drawing: the picture's frame, or the floor seen from above.

Numbers for the template alone, in units of a view box that is 320 wide.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ravst_ray.reports.figures import PALETTE

WIDTH = 320.0
_LEAST_M, _MARGIN, _FLATTEST, _TALLEST = 2.0, 0.08, 0.4, 1.0
_FLOOR = {"kitti": (0, 2)}  # which coordinates lie in the floor: x and z of a camera, else x and y


@dataclass(frozen=True)
class Dot:
    """A thing: where it is, where it was at the first frame (None if it is seen once), and how it is drawn."""

    x: float
    y: float
    before: tuple[float, float] | None
    label: str
    color: str
    asked: bool


@dataclass(frozen=True)
class Drawing:
    """A view box of ``WIDTH`` x ``height``. ``box`` is the answer, if it is one; ``metre`` is how long a metre is."""

    height: float
    dots: tuple[Dot, ...]
    box: tuple[float, float, float, float] | None = None
    metre: float | None = None


def draw(row: Mapping[str, Any]) -> Drawing:
    """The drawing of one row of ``questions``."""
    frames = json.loads(row["graph"])["frames"]
    places: dict[str, list[Sequence[float]]] = {}
    for frame in frames:
        for node in frame["nodes"]:
            places.setdefault(node["id"], []).append(node["pos"])
    if row["space"] == "2d":
        height = WIDTH * row["height"] / row["width"]
        at = {name: [(x * WIDTH, y * height) for x, y in found] for name, found in places.items()}
        box = None
        if row["form"] == "box":
            scale = WIDTH / row["width"]
            x1, y1, x2, y2 = (scale * x for x in json.loads(row["answer"]))
            box = (x1, y1, x2 - x1, y2 - y1)
        return Drawing(height, _dots(at, row), box)
    across, ahead = _FLOOR.get(row["source"], (0, 1))
    flat = {name: [(pos[across], pos[ahead]) for pos in found] for name, found in places.items()}
    return _floor(flat, row)


def _floor(flat: Mapping[str, Sequence[tuple[float, float]]], row: Mapping[str, Any]) -> Drawing:
    """Metres along the floor, scaled to fit; what is ahead, or north, is on top."""
    xs = [x for found in flat.values() for x, _ in found] or [0.0]
    ys = [y for found in flat.values() for _, y in found] or [0.0]
    wide, deep = max(max(xs) - min(xs), _LEAST_M), max(max(ys) - min(ys), _LEAST_M)
    inner = WIDTH * (1 - 2 * _MARGIN)
    height = WIDTH * min(max(deep / wide, _FLATTEST), _TALLEST)
    scale = min(inner / wide, height * (1 - 2 * _MARGIN) / deep)
    middle_x, middle_y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2

    def at(x: float, y: float) -> tuple[float, float]:
        return WIDTH / 2 + scale * (x - middle_x), height / 2 - scale * (y - middle_y)

    placed = {name: [at(x, y) for x, y in found] for name, found in flat.items()}
    return Drawing(height, _dots(placed, row), metre=scale)


def _dots(at: Mapping[str, Sequence[tuple[float, float]]], row: Mapping[str, Any]) -> tuple[Dot, ...]:
    text = " ".join([row["question"], *row["options"]])
    dots = []
    for number, (name, found) in enumerate(at.items()):
        label = name.rpartition(".")[0]
        before = found[0] if len(found) > 1 else None
        dots.append(Dot(*found[-1], before, label, PALETTE[number % len(PALETTE)], label in text))
    return tuple(dots)
