"""Spatial: how well do the boxes agree, second by second?"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from ravst_ray.core.answers import BoxLine, ObjectAnswer
from ravst_ray.core.geometry import is_real_box
from ravst_ray.core.matching import matched_iou
from ravst_ray.core.names import NameMatcher
from ravst_ray.records import Box
from ravst_ray.rewards.pairing import Pairs, pair_objects

Seconds = dict[float, list[Box]]
_EPSILON_S = 1e-6


@dataclass(frozen=True, slots=True)
class SpatialMatch:
    """The boxes of two answers, compared.

    Attributes:
        pairs: indices ``(true, predicted)`` of the objects that belong together.
        both: s(t) in [0, 1] of the seconds in which both sides of a pair have a real box.
        true_only: seconds with a real true box and no predicted one, those of unpaired objects included.
        predicted_only: the other way round.
        unpaired: how many objects, true and predicted, have no counterpart.
    """

    pairs: Pairs
    both: tuple[float, ...]
    true_only: int
    predicted_only: int
    unpaired: int


def real_seconds(lines: Sequence[BoxLine] | None) -> Seconds:
    """The real boxes of each second that has one."""
    seconds: Seconds = {}
    for time_s, box in lines or ():
        if is_real_box(box):
            if time_s in seconds:
                seconds[time_s].append(box)
            else:
                seconds[time_s] = [box]
    return seconds


def snapped_seconds(lines: Sequence[BoxLine] | None, true_times_s: AbstractSet[float], snap_s: float) -> Seconds:
    """The real boxes of each second, predicted times moved to the nearest true one within ``snap_s``.

    Args:
        lines: predicted lines.
        true_times_s: times of the true object's lines, those of "not visible" lines included.
        snap_s: how far a time may move, inclusive; of two equally near the earlier is taken.
    """
    given = real_seconds(lines)
    if given.keys() <= true_times_s:
        return given
    ordered = sorted(true_times_s)
    seconds: Seconds = {}
    for time_s, boxes in given.items():
        seconds.setdefault(_snap(time_s, ordered, snap_s), []).extend(boxes)
    return seconds


def _snap(time_s: float, true_times_s: Sequence[float], snap_s: float) -> float:
    place = bisect_left(true_times_s, time_s)
    if place < len(true_times_s) and true_times_s[place] == time_s:
        return time_s
    best, nearest = time_s, snap_s + _EPSILON_S
    for true_s in true_times_s[max(place - 1, 0) : place + 1]:
        # By more than rounding noise, so that the earlier of two equally near ones stays.
        if abs(true_s - time_s) < nearest - (_EPSILON_S if best != time_s else 0.0):
            best, nearest = true_s, abs(true_s - time_s)
    return best


def compare_object(true: ObjectAnswer, predicted: ObjectAnswer, snap_s: float) -> tuple[list[float], int, int]:
    """s(t) of the seconds both have, and the numbers of seconds that only the true or the predicted object has.

    s(t) is the sum of the optimally matched IoUs / max(true boxes, predicted boxes) of the second.
    """
    wanted = real_seconds(true.where)
    given = snapped_seconds(predicted.where, {time_s for time_s, _ in true.where or ()}, snap_s)
    both = [
        matched_iou(boxes, guesses) / max(len(boxes), len(guesses))
        for time_s, boxes in wanted.items()
        if (guesses := given.get(time_s))
    ]
    return both, len(wanted) - len(both), len(given) - len(both)


def match_boxes(
    true: Sequence[ObjectAnswer], predicted: Sequence[ObjectAnswer], names: NameMatcher, snap_s: float = 0.5
) -> SpatialMatch:
    """Pair the objects of two answers by name (ties by box IoU), and compare the boxes of each pair."""

    def overlap(one: ObjectAnswer, other: ObjectAnswer) -> float:
        found, missed, extra = compare_object(one, other, snap_s)
        return sum(found) / max(len(found) + missed + extra, 1)

    pairs = pair_objects(true, predicted, names, overlap)
    both: list[float] = []
    true_only = predicted_only = 0
    for i, j in pairs:
        found, missed, extra = compare_object(true[i], predicted[j], snap_s)
        both += found
        true_only += missed
        predicted_only += extra
    paired_true, paired_predicted = {i for i, _ in pairs}, {j for _, j in pairs}
    true_only += sum(len(real_seconds(one.where)) for i, one in enumerate(true) if i not in paired_true)
    predicted_only += sum(len(real_seconds(one.where)) for j, one in enumerate(predicted) if j not in paired_predicted)
    unpaired = len(true) + len(predicted) - 2 * len(pairs)
    return SpatialMatch(pairs, tuple(both), true_only, predicted_only, unpaired)


def spatial_score(match: SpatialMatch, domain: str = "union") -> float:
    """Mean of s(t), in [0, 1].

    Args:
        match: the compared boxes.
        domain: ``union``: over all seconds in which either side has a real box, unpaired objects included;
            ``overlap``: over the seconds that both have (the paper's; one lucky frame is enough there).

    Returns:
        The mean. Where neither side has any real box: 1 when no object is unpaired, else 0.
    """
    seconds = len(match.both) + match.true_only + match.predicted_only
    if seconds == 0:
        return float(match.unpaired == 0)
    if domain == "overlap":
        seconds = len(match.both)
    return sum(match.both) / seconds if seconds else 0.0
