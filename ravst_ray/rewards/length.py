"""Length: is the thinking neither cut short nor endless?"""

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
