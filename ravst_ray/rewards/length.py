"""Length: is the thinking neither cut short nor endless, and does a completion come to its end in time?"""

from __future__ import annotations


def length_score(tokens: int | None, answer: float, low: int = 320, high: int = 512, above: float = 0.1) -> float:
    """1 for a completion of ``low`` to ``high`` tokens whose answer scores more than ``above``, else 0.

    The values are those that Video-R1 and SpaceR (arXiv 2504.01805) released; Video-STR's own aren't public.

    Args:
        tokens: of the completion; None where they weren't counted.
        answer: the answer's score in [0, 1].
        low: fewest tokens, inclusive.
        high: most tokens, inclusive.
        above: the score that isn't enough yet.
    """
    return float(tokens is not None and low <= tokens <= high and answer > above)


def overlong_penalty(tokens: int, limit: int, soft: int) -> float:
    """What a long completion loses: nothing up to ``limit - soft`` tokens, then evenly down to -1 at ``limit``.

    DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13).

    Args:
        tokens: of the completion.
        limit: the most tokens that a completion can have (L_max).
        soft: over how many tokens before it the penalty grows (L_cache); 0: there is none.

    Returns:
        A number in [-1, 0], to be added to the reward.
    """
    return max(-1.0, min(0.0, (limit - soft - tokens) / soft)) if soft else 0.0
