"""Numbers behind the report's figures.

The templates draw them as HTML and SVG, so that they follow the reader's window and colour scheme; nothing here knows
about markup except for SVG path data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Okabe and Ito's palette, told apart by colour-blind readers; the order puts the strongest contrasts first.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2")

_HAIRLINE = 0.015


@dataclass(frozen=True)
class Bar:
    """One bar; ``share`` of the longest bar and ``of_total`` of the sum, both in [0, 1]."""

    label: str
    value: float
    share: float
    of_total: float


@dataclass(frozen=True)
class Histogram:
    """Columns over equal bins; ``edges`` has one number more than ``columns``."""

    columns: tuple[Bar, ...]
    edges: tuple[int, ...]


@dataclass(frozen=True)
class Word:
    """A word of the cloud: ``size`` in [0, 1] grows with the square root of the count."""

    text: str
    count: int
    size: float
    share_audible: float


def bars(values: Mapping[str, float] | Sequence[tuple[str, float]]) -> list[Bar]:
    """Bars in the given order."""
    pairs = list(values.items() if isinstance(values, Mapping) else values)
    longest = max((value for _, value in pairs), default=0.0) or 1.0
    total = sum(value for _, value in pairs) or 1.0
    return [Bar(str(label), value, value / longest, value / total) for label, value in pairs]


def ranked(values: Mapping[str, float], top: int | None = None) -> list[Bar]:
    """The ``top`` largest as bars, largest first; equal ones by name. ``of_total`` is of all values."""
    order = sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))
    return bars(order)[:top]


def counts(values: Mapping[int, int], most: int = 8) -> list[Bar]:
    """Columns for small whole numbers, gaps filled; everything from ``most`` on is one column ``"8+"``."""
    if not values:
        return []
    low, high = min(values), max(values)
    pairs = [(str(number), values.get(number, 0)) for number in range(min(low, most), min(high, most - 1) + 1)]
    if high >= most:
        pairs.append((f"{most}+", sum(count for number, count in values.items() if number >= most)))
    return bars(pairs)


def histogram(seconds: Mapping[int, int], max_bins: int = 12) -> Histogram:
    """Counts per second (0 stands for 0 to 1 s) put into at most ``max_bins`` bins of a round width, from 0 on."""
    if not seconds:
        return Histogram((), ())
    end = max(seconds) + 1
    width = max(1, math.ceil(nice_step(end, max_bins)))
    bins = [0] * math.ceil(end / width)
    for second, count in seconds.items():
        bins[second // width] += count
    edges = tuple(index * width for index in range(len(bins) + 1))
    return Histogram(
        tuple(bars([(f"{low}–{low + width} s", count) for low, count in zip(edges, bins, strict=False)])), edges
    )


def nice_step(span: float, most: int) -> float:
    """The smallest of 1, 2, 5 × 10^k that cuts ``span`` into at most ``most`` parts."""
    if span <= 0:
        return 1.0
    rough = span / most
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))


def word_cloud(names: Mapping[str, int], audible: Mapping[str, int], top: int = 48) -> list[Word]:
    """The most frequent names, in alphabetical order, sized by frequency."""
    order = sorted(names.items(), key=lambda pair: (-pair[1], pair[0]))[:top]
    largest = order[0][1] if order else 1
    words = [Word(name, count, math.sqrt(count / largest), audible.get(name, 0) / count) for name, count in order]
    return sorted(words, key=lambda word: word.text)


def ticks(duration_s: float, most: int = 12) -> list[float]:
    """Round times from 0 to the end of a video for its time axis."""
    step = nice_step(duration_s, most)
    return [round(index * step, 6) for index in range(math.floor(duration_s / step + 1e-9) + 1)]


def waveform_path(outline: Sequence[Sequence[float]]) -> str:
    """SVG path data of a waveform: x runs from 0 to ``len(outline) - 1``, y from -1 (up) to 1.

    ``outline`` has the lowest and highest sample of each part, in [-1, 1]; quiet recordings are drawn louder, so that
    their shape is seen, and silence is a thin line.
    """
    if not len(outline):
        return ""
    loudest = max(0.05, *(max(-low, high) for low, high in outline))
    upper = [f"{x} {-max(high / loudest, _HAIRLINE):.3f}" for x, (_, high) in enumerate(outline)]
    lower = [f"{x} {max(-low / loudest, _HAIRLINE):.3f}" for x, (low, _) in enumerate(outline)]
    return "M" + "L".join(upper + lower[::-1]) + "Z"
