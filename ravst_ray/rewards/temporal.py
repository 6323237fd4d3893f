"""Temporal: how well do the intervals agree?"""

from __future__ import annotations

from ravst_ray.core.answers import ParsedAnswer
from ravst_ray.core.intervals import interval_iou
from ravst_ray.core.matching import best_assignment


def temporal_score(true: ParsedAnswer, predicted: ParsedAnswer) -> float:
    """IoU of the two ``<when>``, in [0, 1]; 0 for a missing, zero-length or inverted one.

    Every true answer has one. Of several predicted ones the best counts, divided by their number, so that guessing
    twice never beats the average guess.
    """
    wanted = [one.when for one in true.objects if one.when is not None]
    given = [one.when for one in predicted.objects if one.when is not None]
    if len(wanted) == 1 and len(given) == 1:
        return interval_iou(wanted[0], given[0])
    ious = [[interval_iou(one, other) for other in given] for one in wanted]
    return sum(ious[i][j] for i, j in best_assignment(ious)) / max(len(wanted), len(given), 1)
