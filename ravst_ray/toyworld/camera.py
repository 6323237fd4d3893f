"""A camera over a ground that is larger than the picture: it cuts, pans and zooms.

World coordinates are pixels of the ground; at zoom 1 a pixel of the world is one of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

_STEADY = 1e-6


def eased(time_s: float, knots_s: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """The value at a time of a smooth way through ``knots [K, ...]``; before the first and after the last it stays."""
    i = int(np.clip(np.searchsorted(knots_s, time_s) - 1, 0, len(knots_s) - 2))
    share = np.clip((time_s - knots_s[i]) / (knots_s[i + 1] - knots_s[i]), 0.0, 1.0)
    ease = share * share * (3 - 2 * share)
    return knots[i] + ease * (knots[i + 1] - knots[i])


@dataclass(frozen=True)
class View:
    """What the picture shows of the world: from its upper left corner on, ``zoom`` pixels for one of the world."""

    left: float
    top: float
    zoom: float
    size_px: int

    def in_picture_px(self, world_px: tuple[float, float]) -> tuple[float, float]:
        """A point of the world in pixels of the picture; may be outside."""
        return (world_px[0] - self.left) * self.zoom, (world_px[1] - self.top) * self.zoom

    def crop(self, ground: np.ndarray) -> np.ndarray:
        """The part of the ground (uint8 ``[H, W, 3]``) that is seen, ``[size_px, size_px, 3]``."""
        side = self.size_px / self.zoom
        box = (self.left, self.top, self.left + side, self.top + side)
        shown = Image.fromarray(ground).resize((self.size_px, self.size_px), Image.Resampling.BICUBIC, box=box)
        return np.asarray(shown)


@dataclass(frozen=True)
class Shot:
    """From ``start_s`` on until the next shot: ``knots [K, 3]`` of centre x, centre y (world) and zoom."""

    start_s: float
    knots_s: np.ndarray
    knots: np.ndarray

    def _moves(self, columns: slice) -> bool:
        return any(np.abs(after - before).max() > _STEADY for before, after in pairwise(self.knots[:, columns]))

    @property
    def pans(self) -> bool:
        """Whether its centre moves."""
        return self._moves(slice(0, 2))

    @property
    def zooms(self) -> bool:
        """Whether it comes nearer or goes away."""
        return self._moves(slice(2, 3))


@dataclass(frozen=True)
class Camera:
    """Shots in time order, the first from 0 s on, over a square ground of ``world_px``, shown in ``size_px``."""

    shots: tuple[Shot, ...]
    world_px: int
    size_px: int

    @property
    def cuts_s(self) -> tuple[float, ...]:
        """When the picture jumps; a cut's own time shows the new shot."""
        return tuple(shot.start_s for shot in self.shots[1:])

    def view(self, time_s: float) -> View:
        """What is seen at a time; the view stays within the ground."""
        shot = [one for one in self.shots if one.start_s <= time_s or one is self.shots[0]][-1]
        x, y, zoom = eased(time_s, shot.knots_s, shot.knots).tolist()
        side = self.size_px / zoom
        left, top = (min(max(centre - side / 2, 0.0), self.world_px - side) for centre in (x, y))
        return View(left, top, zoom, self.size_px)
