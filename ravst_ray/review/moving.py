"""Boxes between boxes: a straight line from one to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ravst_ray.records import Box, Track

_SAME = 0.01  # of a step: two times of one grid point
_GAP = 1.5  # steps: further apart, the object was out of sight between


def between(one: Box, other: Box, share: float) -> Box:
    """The box at ``share`` (0 to 1) of the way.

    >>> between((0.0, 0.0, 10.0, 10.0), (4.0, 8.0, 14.0, 18.0), 0.25)
    (1.0, 2.0, 11.0, 12.0)
    """
    x1, y1, x2, y2 = (a + share * (b - a) for a, b in zip(one, other, strict=True))
    return x1, y1, x2, y2


def regridded(track: Track, grid_s: Sequence[float], step_s: float) -> Track:
    """A track at the times of another grid: as it was where they agree, interpolated between two of its times.

    Where it wasn't seen, and before its first and after its last box, it isn't seen. Interpolated boxes have no mask,
    so that the track has none then, and weren't detected.
    """
    rows: list[tuple[float, Box, float, bool, str | None]] = []
    detected = track.detected or (False,) * len(track.times_s)
    for time_s in grid_s:
        for place, own_s in enumerate(track.times_s):
            if abs(own_s - time_s) <= _SAME * step_s:
                mask = track.masks_rle[place] if track.masks_rle is not None else None
                rows.append((time_s, track.boxes_xyxy_px[place], track.scores[place], detected[place], mask))
                break
            after = place + 1
            if after < len(track.times_s) and own_s < time_s < track.times_s[after] - _SAME * step_s:
                gap_s = track.times_s[after] - own_s
                if gap_s <= _GAP * step_s:
                    share = (time_s - own_s) / gap_s
                    box = between(track.boxes_xyxy_px[place], track.boxes_xyxy_px[after], share)
                    score = track.scores[place] + share * (track.scores[after] - track.scores[place])
                    rows.append((time_s, box, score, False, None))
                break
    masks = [row[4] for row in rows]
    return replace(
        track,
        times_s=tuple(row[0] for row in rows),
        boxes_xyxy_px=tuple(row[1] for row in rows),
        scores=tuple(row[2] for row in rows),
        detected=tuple(row[3] for row in rows) if track.detected else (),
        masks_rle=tuple(mask for mask in masks if mask is not None)
        if all(mask is not None for mask in masks)
        else None,
    )
