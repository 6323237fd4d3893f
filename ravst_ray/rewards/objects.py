"""Object: are the right things named, and no others?"""

from __future__ import annotations

from ravst_ray.core.answers import ParsedAnswer
from ravst_ray.rewards.pairing import Pairs


def object_score(true: ParsedAnswer, predicted: ParsedAnswer, pairs: Pairs) -> float:
    """Matched names / max(true, predicted), in [0, 1]; 1 when there is nothing to name and nothing is named."""
    most = max(len(true.objects), len(predicted.objects))
    return len(pairs) / most if most else 1.0
