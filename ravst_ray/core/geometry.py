"""Arithmetic of boxes ``(x1, y1, x2, y2)``, pixels."""

from __future__ import annotations

from math import hypot, isfinite

from ravst_ray.records import Box


def is_real_box(box: Box) -> bool:
    """True for a finite box with x2 > x1 and y2 > y1; the published ``[0, 0, 0, 0]`` ("not visible") is none."""
    x1, y1, x2, y2 = box
    return x1 < x2 and y1 < y2 and isfinite(x2 - x1) and isfinite(y2 - y1)


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union in [0, 1]; 0 when either box isn't real.

    Example:
        >>> box_iou((0, 0, 10, 10), (5, 0, 15, 10))
        0.3333333333333333
    """
    if not (is_real_box(a) and is_real_box(b)):
        return 0.0
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    if not 0.0 < union < float("inf"):  # areas of absurd boxes over- or underflow
        return 0.0
    return min(shared / union, 1.0)


def diagonal(box: Box) -> float:
    """Length of a box's diagonal, pixels."""
    return hypot(box[2] - box[0], box[3] - box[1])


def centre_distance(a: Box, b: Box) -> float:
    """How far the centres of two boxes are apart, pixels."""
    return hypot(a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]) / 2
