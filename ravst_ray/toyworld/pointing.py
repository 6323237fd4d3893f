"""Whether the boxes of an answer are on the instances that are meant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ravst_ray.core.answers import BoxLine
from ravst_ray.core.frame_times import round_to_tenth
from ravst_ray.core.geometry import box_iou
from ravst_ray.records import Box

Thing = Mapping[str, Any]

LEAST_IOU = 0.3
_SURE_IOU = 0.5
_MOST_WRONG = 0.25
_RUN_S = 2
_STEP_S = 1.0


def true_box(thing: Thing, time_s: float) -> Box | None:
    """The box of an object of ``truth.json`` at the nearest time of its 0.1 s grid; None where it isn't seen."""
    found = thing["boxes"].get(str(round_to_tenth(time_s)))
    return (found[0], found[1], found[2], found[3]) if found else None


def best_instance(things: Sequence[Thing], time_s: float, box: Box) -> tuple[float, int | None]:
    """IoU and place of the object whose true box fits best; (0, None) where the box is on nothing."""
    fits = [(box_iou(box, there), -place) for place, thing in enumerate(things) if (there := true_box(thing, time_s))]
    iou, place = max(fits, default=(0.0, 0))
    return (iou, -place) if iou > 0 else (0.0, None)


def box_faults(
    video: Mapping[str, Any], right: Sequence[Thing], lines: Sequence[BoxLine], seconds: Sequence[float]
) -> Iterator[str]:
    """Reasons against one object's ``<where>``: ``wrong_boxes``, ``wrong_instance``, ``missing_boxes``.

    A line whose box has an IoU of 0.5 with a right object is right. Any other is wrong if its box fits another object
    best, or if its IoU with every right one is below 0.3. Up to a quarter of the lines may be.

    Args:
        video: the video's entry in ``truth.json``.
        right: the objects of it that are meant.
        lines: (time in seconds, box) of the answer.
        seconds: that are asked about, a second apart.
    """
    things = video["objects"]
    meant = {place for place, thing in enumerate(things) if any(thing is one for one in right)}
    found: defaultdict[int, set[float]] = defaultdict(set)
    mistaken: defaultdict[int, set[float]] = defaultdict(set)
    wrong = 0
    for time_s, box in lines:
        iou, place = best_instance(things, time_s, box)
        at = float(round_to_tenth(time_s))
        ious = {one: box_iou(box, there) for one in meant if (there := true_box(things[one], at))}
        hits = {one for one, overlap in ious.items() if overlap >= LEAST_IOU}
        sure = max(ious.values(), default=0.0) >= _SURE_IOU
        wrong += not sure and (place not in meant or not hits)
        for one in hits:
            found[one].add(at)
        if not sure and place is not None and place not in meant and iou >= LEAST_IOU:
            mistaken[place].add(at)
    if wrong > _MOST_WRONG * len(lines):
        yield "wrong_boxes"
    if any(_longest_run(times) >= _RUN_S for times in mistaken.values()):
        yield "wrong_instance"
    for place in meant:
        seen = {second for second in seconds if true_box(things[place], second)}
        if len(seen) > len(seconds) / 2 and len(seen - found[place]) > len(seen) / 2:
            yield "missing_boxes"


def _longest_run(times_s: set[float]) -> int:
    """Most times in a row that are a second apart or less."""
    longest = run = 0
    before = None
    for time_s in sorted(times_s):
        run = run + 1 if before is not None and time_s - before < 1.5 * _STEP_S else 1
        longest, before = max(longest, run), time_s
    return longest
