"""Numbers behind plots that are made of boxes: distributions, bars in groups, intervals beside each other.

Boxes live in the square of :mod:`ravst_ray.reports.curves`, y downwards; ``plot`` in ``charts.html.j2`` draws them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ravst_ray.core.intervals import Interval
from ravst_ray.reports.curves import COLORS, INK, SIDE, Tick, scale

BINS = 20
_WIDEST = 120.0
_ROW_PX, _LEAST_PX, _MOST_PX = 10, 40, 420
_TRUE, _SAID = "var(--silent)", COLORS[0]


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of the legend; ``kind`` is the class of its mark, ``shown`` the value for people (empty: none)."""

    label: str
    color: str
    kind: Literal["dot", "line dashed"] = "dot"
    value: float | None = None
    shown: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """A filled box; ``title`` is told where the pointer is, if it isn't empty."""

    x: float
    y: float
    width: float
    height: float
    color: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot of ``height_px``; ``marks`` are upright lines (place, colour), ``strips`` as in ``curves.Chart``."""

    title: str
    hint: str
    legend: tuple[Key, ...]
    boxes: tuple[Box, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...] = ()
    marks: tuple[tuple[float, str], ...] = ()
    strips: tuple[tuple[float, float, str], ...] = ()
    height_px: int = 178


def distribution(title: str, hint: str, label: str, values: Sequence[float], color: str) -> Plot:
    """How often values in [0, 1] (at least one) fall into each of ``BINS`` equal bins, and their mean."""
    counts = np.histogram(values, bins=BINS, range=(0.0, 1.0))[0].tolist()
    _, high, y_ticks = scale(0.0, max(counts), whole=True)
    width, mean = SIDE / BINS, float(np.mean(values))
    boxes = [
        Box(place * width + 2, SIDE * (1 - count / high), width - 4, SIDE * count / high, color)
        for place, count in enumerate(counts)
        if count
    ]
    strips = [
        (100 * place / BINS, 100 / BINS, f"{place / BINS:.2f}–{(place + 1) / BINS:.2f}: {count:,}")
        for place, count in enumerate(counts)
    ]
    legend = (Key(label, color), Key("mean", INK, "line dashed", mean, f"{mean:.2f}"))
    ticks = tuple(Tick(20.0 * place, f"{place / 5:g}") for place in range(6))
    return Plot(title, hint, legend, tuple(boxes), ticks, y_ticks, ((SIDE * mean, INK),), tuple(strips))


def grouped_bars(title: str, hint: str, groups: Mapping[str, Mapping[str, float]], colors: Mapping[str, str]) -> Plot:
    """Bars side by side: by group (at least one) the values, 0 or more, of series; each series has a colour."""
    shown = [name for name in colors if any(name in values for values in groups.values())]
    _, high, y_ticks = scale(0.0, max(value for values in groups.values() for value in values.values()))
    room = SIDE / len(groups)
    width = min(0.8 * room / len(shown), _WIDEST)
    boxes, ticks, strips = [], [], []
    for place, (group, values) in enumerate(groups.items()):
        middle = (place + 0.5) * room
        for number, name in enumerate(shown):
            height = SIDE * values.get(name, 0.0) / high
            left = middle + (number - len(shown) / 2) * width
            boxes.append(Box(left + 2, SIDE - height, width - 4, height, colors[name]))
        ticks.append(Tick(100 * middle / SIDE, group))
        told = ", ".join(f"{name} {values[name]:.2f}" for name in shown if name in values)
        strips.append((100 * place / len(groups), 100 / len(groups), f"{group}: {told}"))
    legend = tuple(Key(name, colors[name]) for name in shown)
    return Plot(title, hint, legend, tuple(boxes), tuple(ticks), y_ticks, strips=tuple(strips))


def interval_rows(title: str, hint: str, rows: Sequence[tuple[str, Interval, Interval | None]]) -> Plot:
    """Each row (at least one) has a name, a true interval and a predicted one within it, both as shares in [0, 1]."""
    pitch = SIDE / len(rows)
    boxes = []
    for place, (name, true, said) in enumerate(rows):
        told = f"{name}: true {_percent(true)}, predicted {_percent(said) if said else 'none'}"
        for interval, thick, color in ((true, 0.86, _TRUE), (said, 0.4, _SAID)):
            if interval and interval[1] > interval[0]:
                y, height = (place + 0.5 - thick / 2) * pitch, thick * pitch
                boxes.append(Box(SIDE * interval[0], y, SIDE * (interval[1] - interval[0]), height, color, told))
    ticks = tuple(Tick(20.0 * place, f"{20 * place}%") for place in range(6))
    legend = (Key("true", _TRUE), Key("predicted", _SAID))
    height_px = min(max(_ROW_PX * len(rows), _LEAST_PX), _MOST_PX)
    return Plot(title, hint, legend, tuple(boxes), ticks, height_px=height_px)


def _percent(interval: Interval) -> str:
    return f"{100 * interval[0]:.0f}–{100 * interval[1]:.0f}%"
