"""Answer: how right is the short answer to a question about a scene?"""

from __future__ import annotations

import numpy as np

from ravst_ray.core.geometry import box_iou
from ravst_ray.core.intervals import interval_iou
from ravst_ray.core.values import Value

_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_ROUNDING = 1e-9


def answer_score(true: Value, said: Value | None) -> float:
    """How right a value is, in [0, 1]; 0 for one of another kind or none.

    A letter: 1 or 0. A number: :func:`relative_accuracy`. A box: IoU; an interval: temporal IoU. Which kind has which
    score is published (arXiv 2510.10976: multiple choice, numerical, IoU).
    """
    if isinstance(true, str) or isinstance(said, str) or said is None:
        return float(true == said)
    if isinstance(true, tuple) and isinstance(said, tuple):
        if len(true) == len(said) == 4:
            return box_iou((true[0], true[1], true[2], true[3]), (said[0], said[1], said[2], said[3]))
        return interval_iou((true[0], true[1]), (said[0], said[1])) if len(true) == len(said) == 2 else 0.0
    return 0.0 if isinstance(true, tuple) or isinstance(said, tuple) else relative_accuracy(true, said)


def relative_accuracy(true: float, said: float, rounding: float = _ROUNDING) -> float:
    """Mean relative accuracy in [0, 1]: the share of t in 0.50, 0.55, ..., 0.95 with error <= 1 - t.

    The error is abs(said - true) / abs(true). It is VSI-Bench's (arXiv 2412.14171); thresholds built this way, unlike
    sums of 0.05, let an error of exactly 10% score 0.9. Where the truth is 0, at which it isn't defined: 1 for 0, 0 for
    all else. NaN and infinities score 0.

    Args:
        true: the truth.
        said: the answer.
        rounding: how much beyond a threshold is still at it; VSI-Bench's own code has none.

    Example:
        >>> relative_accuracy(2.0, 2.2), relative_accuracy(3, 5)
        (0.9, 0.0)
    """
    if true == 0:
        return float(said == 0)
    return float((abs(said - true) / abs(true) <= 1 - _THRESHOLDS + rounding).mean())
