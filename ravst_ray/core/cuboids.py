"""Geometry of boxes in metres that stand as they like: how far apart, and where to whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan2, degrees
from typing import Any

import numpy as np

from ravst_ray.core.scenes import Axes, Vector

_SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
_PARALLEL = 1e-9


@dataclass(frozen=True, slots=True)
class Cuboid:
    """A box in metres: its centre, its three axes (unit vectors), and its lengths along them."""

    centre: Vector
    axes: Axes
    size: Vector


def gap_m(one: Cuboid, other: Cuboid) -> float:
    """Distance of the closest points of two solid boxes in metres; 0 where they touch or overlap. Exact.

    Two boxes that are apart are closest at a corner of one of them, or between two edges that pass each other.
    """
    a, b = _Box(one), _Box(other)
    if not _apart(a, b):
        return 0.0
    return float(min(_corners_to(a, b), _corners_to(b, a), _edge_to_edge(a, b)))


class _Box:
    def __init__(self, cuboid: Cuboid):
        self.centre = np.array(cuboid.centre, float)
        self.axes = np.array(cuboid.axes, float)  # rows
        self.half = np.array(cuboid.size, float) / 2
        self.corners = self.centre + (_SIGNS * self.half) @ self.axes


def _apart(a: _Box, b: _Box) -> bool:
    """Whether a plane lies between them (the separating axis theorem)."""
    crossed = np.cross(a.axes[:, None], b.axes[None]).reshape(9, 3)
    normals = np.vstack([a.axes, b.axes, crossed])
    far = np.abs(normals @ (b.centre - a.centre))
    reach = np.abs(normals @ a.axes.T) @ a.half + np.abs(normals @ b.axes.T) @ b.half
    return bool((far > reach + 1e-12).any())


def _corners_to(a: _Box, b: _Box) -> Any:
    """The least distance of a corner of ``a`` to ``b``."""
    inside = (a.corners - b.centre) @ b.axes.T
    return np.sqrt(((inside - np.clip(inside, -b.half, b.half)) ** 2).sum(1).min())


def _edge_to_edge(a: _Box, b: _Box) -> Any:
    """The least distance of two edges whose closest points lie within both; infinite where there are no such."""
    (p, u), (q, v) = _edges(a), _edges(b)
    u, v = u[:, None], v[None]
    w = q[None] - p[:, None]
    uu, vv, uv = (u * u).sum(-1), (v * v).sum(-1), (u * v).sum(-1)
    wu, wv = (w * u).sum(-1), (w * v).sum(-1)
    determinant = uu * vv - uv * uv
    usable = determinant > _PARALLEL * uu * vv
    safe = np.where(usable, determinant, 1.0)
    s, t = (wu * vv - wv * uv) / safe, (wu * uv - wv * uu) / safe
    within = usable & (s >= 0) & (s <= 1) & (t >= 0) & (t <= 1)
    between = np.linalg.norm(w + t[..., None] * v - s[..., None] * u, axis=-1)
    return np.where(within, between, np.inf).min()


def _edges(box: _Box) -> tuple[Any, Any]:
    """Starts ``[12, 3]`` and ways ``[12, 3]`` of the edges."""
    starts, ways = [], []
    for axis in range(3):
        starts.append(box.corners[_SIGNS[:, axis] < 0])
        ways.append(np.repeat((2 * box.half[axis] * box.axes[axis])[None], 4, axis=0))
    return np.vstack(starts), np.vstack(ways)


def turn_deg(stand: Sequence[float], face: Sequence[float], target: Sequence[float], up: Vector) -> float:
    """How far who stands here and faces there turns to face the target, degrees in (-180, 180]; left is positive.

    Heights don't matter: all is seen in the plane of the floor, ``up`` is its normal.

    >>> turn_deg((0, 0, 0), (0, 1, 0), (-1, 1, 5), (0, 0, 1))
    45.0
    """
    normal = np.array(up)
    ahead, there = np.subtract(face, stand), np.subtract(target, stand)
    ahead, there = ahead - (ahead @ normal) * normal, there - (there @ normal) * normal
    return degrees(atan2(normal @ np.cross(ahead, there), ahead @ there))


def along_floor_m(one: Sequence[float], other: Sequence[float], up: Vector) -> float:
    """How far two points are apart in the plane of the floor, metres."""
    way = np.subtract(other, one)
    return float(np.linalg.norm(way - (way @ np.array(up)) * np.array(up)))
