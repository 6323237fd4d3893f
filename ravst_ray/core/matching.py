"""One-to-one assignment of largest total weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from ravst_ray.core.geometry import box_iou
from ravst_ray.records import Box


def best_assignment(weights: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Row-column pairs, one-to-one, of the largest total weight; pairs of weight 0 or less are left out.

    Args:
        weights: ``[rows][columns]``, finite and >= 0; any of the two may be 0.
    """
    if not weights or not weights[0]:
        return []
    rows, columns = len(weights), len(weights[0])
    if rows == 1 or columns == 1:
        cells = [(value, row, column) for row, line in enumerate(weights) for column, value in enumerate(line)]
        value, row, column = max(cells, key=lambda cell: (cell[0], -cell[1], -cell[2]))
        return [(row, column)] if value > 0 else []
    if rows == columns == 2:
        straight, crossed = weights[0][0] + weights[1][1], weights[0][1] + weights[1][0]
        pairs = [(0, 0), (1, 1)] if straight >= crossed else [(0, 1), (1, 0)]
        return [(row, column) for row, column in pairs if weights[row][column] > 0]
    table = np.asarray(weights, dtype=float)
    found = zip(*linear_sum_assignment(table, maximize=True), strict=True)
    return [(int(row), int(column)) for row, column in found if table[row, column] > 0]


def matched_iou(true: Sequence[Box], predicted: Sequence[Box]) -> float:
    """Sum of the IoUs of the best one-to-one matching of two lists of boxes; 0 when either is empty."""
    if len(true) == 1 and len(predicted) == 1:
        return box_iou(true[0], predicted[0])
    weights = [[box_iou(one, other) for other in predicted] for one in true]
    return sum(weights[row][column] for row, column in best_assignment(weights))
