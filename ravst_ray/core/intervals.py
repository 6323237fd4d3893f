"""Arithmetic of time intervals ``(start_s, end_s)``, seconds."""

from __future__ import annotations

from collections.abc import Iterable

Interval = tuple[float, float]


def length(interval: Interval) -> float:
    """Seconds in an interval; 0 for an inverted one."""
    return max(0.0, interval[1] - interval[0])


def overlap(a: Interval, b: Interval) -> float:
    """Seconds that two intervals share; 0 when they only touch."""
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0]))


def interval_iou(a: Interval, b: Interval) -> float:
    """Temporal IoU (tIoU) in [0, 1]; 0 when either interval is empty or inverted.

    Example:
        >>> interval_iou((0.0, 4.0), (2.0, 6.0))
        0.3333333333333333
    """
    if length(a) == 0.0 or length(b) == 0.0:
        return 0.0
    shared = overlap(a, b)
    return shared / (length(a) + length(b) - shared)


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Overlapping or touching intervals made one; sorted by start. Inverted ones are left out."""
    merged: list[Interval] = []
    for start, end in sorted(interval for interval in intervals if interval[1] >= interval[0]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def union_length(intervals: Iterable[Interval]) -> float:
    """Seconds covered by at least one of the intervals."""
    return sum(length(interval) for interval in merge(intervals))
