"""Which predicted object is which true one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ravst_ray.core.answers import ObjectAnswer
from ravst_ray.core.matching import best_assignment
from ravst_ray.core.names import NameMatcher

Pairs = list[tuple[int, int]]
_STEPS = 10_000


def pair_objects(
    true: Sequence[ObjectAnswer],
    predicted: Sequence[ObjectAnswer],
    names: NameMatcher,
    overlap: Callable[[ObjectAnswer, ObjectAnswer], float] | None = None,
) -> Pairs:
    """One-to-one pairs ``(true, predicted)`` of objects with the same name.

    As many as possible; among those the most alike names (in steps of 0.0001), then the largest sum of ``overlap``.

    Args:
        true: objects of the true answer.
        predicted: objects of the completion.
        names: decides which names are the same.
        overlap: box overlap of a pair in [0, 1], asked for only where names leave a choice.
    """
    scores = [[names.score(one.name, other.name) for other in predicted] for one in true]
    if overlap is None or not _ambiguous(scores):
        overlaps = [[0.0] * len(predicted) for _ in true]
    else:
        overlaps = [
            [overlap(true[i], predicted[j]) if score > 0 else 0.0 for j, score in enumerate(row)]
            for i, row in enumerate(scores)
        ]
    # Three orders of magnitude apart by construction, so that the order of preference is strict.
    most = min(len(true), len(predicted)) + 1
    per_match = most * most * _STEPS
    weights = [
        [
            per_match + most * round(_STEPS * score) + extra if score > 0 else 0.0
            for score, extra in zip(*rows, strict=True)
        ]
        for rows in zip(scores, overlaps, strict=True)
    ]
    return best_assignment(weights)


def _ambiguous(scores: Sequence[Sequence[float]]) -> bool:
    """Whether an object has more than one candidate on the other side."""
    rows = any(sum(score > 0 for score in row) > 1 for row in scores)
    return rows or any(sum(score > 0 for score in column) > 1 for column in zip(*scores, strict=True))
