"""Arithmetic of boxes ``(x1, y1, x2, y2)``, pixels."""

from __future__ import annotations

from math import hypot, inf

from ravst_ray.records import Box


def is_real_box(box: Box) -> bool:
    """True for a finite box with x2 > x1 and y2 > y1; the published ``[0, 0, 0, 0]`` ("not visible") is none."""
    x1, y1, x2, y2 = box
    return 0 < x2 - x1 < inf and 0 < y2 - y1 < inf


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union in [0, 1]; 0 when either box isn't real.

    Example:
        >>> box_iou((0, 0, 10, 10), (5, 0, 15, 10))
        0.3333333333333333
    """
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    if not (ax1 < ax2 and ay1 < ay2 and bx1 < bx2 and by1 < by2):
        return 0.0
    # Plain comparisons: min() and max() cost more than all the rest.
    width = (ax2 if ax2 < bx2 else bx2) - (ax1 if ax1 > bx1 else bx1)
    height = (ay2 if ay2 < by2 else by2) - (ay1 if ay1 > by1 else by1)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
    if not 0.0 < union < inf:  # areas of absurd boxes over- or underflow
        return 0.0
    return min(shared / union, 1.0)


def box_area(box: Box) -> float:
    """Area in square pixels; 0 where a side isn't positive."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def diagonal(box: Box) -> float:
    """Length of a box's diagonal, pixels."""
    return hypot(box[2] - box[0], box[3] - box[1])


def centre_distance(a: Box, b: Box) -> float:
    """How far the centres of two boxes are apart, pixels."""
    return hypot(a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]) / 2
