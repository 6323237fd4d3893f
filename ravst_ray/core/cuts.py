"""Whether a cut lies between two frames of a video that may be up to two seconds apart.

So long after each other, frames differ a lot without a cut: things move, enter and leave, the camera pans and zooms, a
lamp is switched on. What a cut alone does is to leave no part of the picture as it was. So small thumbnails, freed of
light and contrast, are laid over each other at the zoom and shift that fit best, and what counts are the parts that
agree most. How far the colours differ has a say of one third, where the structure differs, too: a strobe or a flash
changes all colours, and no place.

Black bars stay as they are over every cut, and their edges would be the parts that agree most. So what both frames have
of one colour along their edges is cut off before they are compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

_WIDTH, _HEIGHT = 64, 48
_ZOOMS = (1.0, 0.89, 0.79, 0.71)  # of either frame against the other
_SPECTRUM = (2 * _HEIGHT, 2 * _WIDTH)  # room for every shift without one that wraps around
_AROUND = 5  # pixels on each side from which the local mean and contrast are taken
_NOISE = 6.0  # grey levels; contrast below it is none
_PLAIN = 0.5  # no pixel of a normalised thumbnail stands out more than this
_PART = 8  # side of the parts that are compared, pixels of the thumbnail
_BEST_PARTS = 0.3  # share of the parts that must agree: less than what a large object leaves of its background
_MIN_OVERLAP = 0.5
_FAINT = 0.02  # keeps parts without structure from agreeing
_COLOURS = 4  # levels per channel
_STRUCTURE = 2 / 3  # weight of the structure; the rest is the colours'
_COLOURS_SAY = 2.0  # most that they add, in structure: a lamp goes on without a cut
_ONE_COLOUR = 4.0  # grey levels by which the pixels of a bar may differ
_MOST_OF_A_LINE = 0.7  # share of a line's pixels that have the bar's colour
_LEAST_LEFT = 0.25  # share of the lines between two bars


Bars = tuple[int, int, int, int]
"""Rows and columns of one colour at the top, the bottom, the left and the right of a picture."""


@dataclass(frozen=True)
class _View:
    """What is compared of a frame: normalised thumbnails at four sizes, their spectra, and its colours."""

    thumbnails: tuple[np.ndarray, ...]
    spectra: tuple[np.ndarray, ...]
    colours: np.ndarray


@dataclass(frozen=True)
class Look:
    """A coarse copy of a frame, with its bars; ``plain``: black, white, a flash, without any structure in it."""

    coarse: np.ndarray = field(repr=False)
    bars: Bars
    plain: bool
    _views: dict[Bars, _View] = field(default_factory=dict, repr=False)

    def within(self, bars: Bars) -> _View:
        """What is compared of it without these bars."""
        if bars not in self._views:
            top, bottom, left, right = bars
            height, width = self.coarse.shape[:2]
            self._views[bars] = _view(self.coarse[top : height - bottom, left : width - right])
        return self._views[bars]


def look(frame: np.ndarray) -> Look:
    """What :func:`unlikeness` wants to know of a frame, ``uint8 [H, W, 3]``."""
    step = max(1, min(frame.shape[0] // (4 * _HEIGHT), frame.shape[1] // (4 * _WIDTH)))
    coarse = frame[::step, ::step].copy()
    grey = coarse.mean(axis=2, dtype=np.float32)
    plain = float(np.abs(_normalised(_shrunk(grey, _HEIGHT, _WIDTH))).max()) < _PLAIN
    return Look(coarse, (*_bars(grey), *_bars(grey.T)), plain)


def _view(coarse: np.ndarray) -> _View:
    grey = coarse.mean(axis=2, dtype=np.float32)
    thumbnails = tuple(_normalised(_shrunk(grey, round(_HEIGHT * zoom), round(_WIDTH * zoom))) for zoom in _ZOOMS)
    spectra = tuple(np.fft.rfft2(thumbnail, _SPECTRUM) for thumbnail in thumbnails)
    return _View(thumbnails, spectra, colour_histogram(coarse.reshape(-1, 3)))


def _bars(lines: np.ndarray) -> tuple[int, int]:
    """How many lines at either end are of one colour; none where hardly anything would be left."""
    first, last = _bar(lines), _bar(lines[::-1])
    return (first, last) if len(lines) - first - last >= _LEAST_LEFT * len(lines) else (0, 0)


def _bar(lines: np.ndarray) -> int:
    """Lines from the first on that are of its colour, but for a logo or a subtitle; and the one that is mixed."""
    same = (np.abs(lines - np.median(lines[0])) <= _ONE_COLOUR).mean(axis=1) >= _MOST_OF_A_LINE
    count = int(np.append(same, False).argmin())
    return count + 1 if count else 0


def colour_histogram(pixels: np.ndarray) -> np.ndarray:
    """Shares of 64 colours among pixels ``uint8 [N, 3]``; the shares of no pixels are zero.

    >>> float(colour_histogram(np.array([[255, 0, 0], [250, 9, 3], [0, 0, 0], [0, 0, 9]], np.uint8)).max())
    0.5
    """
    red, green, blue = (pixels // (256 // _COLOURS)).astype(np.intp).T
    counts = np.bincount((red * _COLOURS + green) * _COLOURS + blue, minlength=_COLOURS**3)
    return counts / max(len(pixels), 1)


def unlikeness(before: Look, after: Look) -> float:
    """How little two frames have in common, in [0, 1]: two thirds structure, one third colours.

    The structure's share is one minus the correlation of the parts that agree best, the colours' half the L1 distance
    of their histograms, but at most twice the structure's. A plain frame is as unlike any other as can be.
    """
    top, bottom, left, right = (min(sides) for sides in zip(before.bars, after.bars, strict=True))
    one, other = (frame.within((top, bottom, left, right)) for frame in (before, after))
    colours = 0.5 * float(np.abs(one.colours - other.colours).sum())
    structure = 1.0 - _agreement(one, other)
    return _STRUCTURE * structure + (1.0 - _STRUCTURE) * min(colours, _COLOURS_SAY * structure)


def _agreement(before: _View, after: _View) -> float:
    """Mean correlation of the best parts at the best zoom and shift, in [0, 1]."""
    zoomed = range(1, len(_ZOOMS))
    still = _agreement_at(
        before.thumbnails[0], after.thumbnails[0], (0, 0)
    )  # much moves before a camera that stands still
    moved = (
        _agreement_at(before.thumbnails[i], after.thumbnails[j], _best_shift(before, after, i, j))
        for i, j in [(0, 0), *((zoom, 0) for zoom in zoomed), *((0, zoom) for zoom in zoomed)]
    )
    return max(still, *moved)


def _best_shift(before: _View, after: _View, i: int, j: int) -> tuple[int, int]:
    """(down, right): the pixel of ``before`` under the first one of ``after`` where both correlate most."""
    product = np.fft.irfft2(before.spectra[i] * after.spectra[j].conj(), _SPECTRUM)
    sides = zip(before.thumbnails[i].shape, after.thumbnails[j].shape, _SPECTRUM, strict=True)
    rows, columns = (_overlap(*side) for side in sides)
    shared = rows[:, None] * columns[None, :]
    enough = shared >= _MIN_OVERLAP * min(before.thumbnails[i].size, after.thumbnails[j].size)
    best = int(np.where(enough, product / np.maximum(shared, 1), -np.inf).argmax())
    down, right = divmod(best, _SPECTRUM[1])
    height, width = before.thumbnails[i].shape
    return down - _SPECTRUM[0] * (down >= height), right - _SPECTRUM[1] * (right >= width)


def _overlap(size: int, other: int, length: int) -> np.ndarray:
    """Pixels that two rows of ``size`` and ``other`` share at each cyclic shift."""
    shift = np.arange(length)
    shift = np.where(shift >= size, shift - length, shift)
    return np.maximum(np.minimum(size - shift, other) - np.maximum(-shift, 0), 0)


def _agreement_at(before: np.ndarray, after: np.ndarray, shift: tuple[int, int]) -> float:
    down, right = shift
    height = min(before.shape[0] - max(down, 0), after.shape[0] - max(-down, 0))
    width = min(before.shape[1] - max(right, 0), after.shape[1] - max(-right, 0))
    one = before[max(down, 0) :, max(right, 0) :][:height, :width]
    other = after[max(-down, 0) :, max(-right, 0) :][:height, :width]
    shared, mine, theirs = (_parts(product) for product in (one * other, one * one, other * other))
    correlation = np.sort((shared / np.sqrt((mine + _FAINT) * (theirs + _FAINT))).ravel())
    best = correlation[-max(1, round(_BEST_PARTS * correlation.size)) :]
    return float(np.clip(best.mean(), 0.0, 1.0))


def _parts(values: np.ndarray) -> np.ndarray:
    """Means over square parts that stand half a part apart."""
    half = _PART // 2
    return _local_mean(values, half)[half::_PART, half::_PART]


def _shrunk(grey: np.ndarray, height: int, width: int) -> np.ndarray:
    """The picture at another size, each pixel the mean of those that it stands for."""
    for axis, size in enumerate((height, width)):
        edges = np.arange(size) * grey.shape[axis] // size
        counts = np.maximum(np.diff(np.append(edges, grey.shape[axis])), 1)
        summed = np.add.reduceat(grey, edges, axis=axis)
        grey = summed / (counts[:, None] if axis == 0 else counts)
    return grey


def _normalised(grey: np.ndarray) -> np.ndarray:
    """The picture without its local brightness and contrast."""
    above = grey - _local_mean(grey, _AROUND)
    return above / (np.sqrt(np.maximum(_local_mean(above * above, _AROUND), 0.0)) + _NOISE)


def _local_mean(values: np.ndarray, around: int) -> np.ndarray:
    """Means over squares of ``2 * around + 1`` pixels; the border is repeated beyond the edge."""
    size = 2 * around + 1
    padded = np.pad(values, around, mode="edge").astype(np.float64)
    sums = np.pad(padded.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    return (sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]) / size**2
