"""What review tells of a dataset: agreement, the error rate of what nobody looked at, time and money. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import NormalDist, median
from typing import Any

from ravst_ray.review.verdicts import EventHistory, Target, Verdict

HOUR_S = 3600.0
_RIGHT, _WRONG = "right", "wrong"


def kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa of two people's categories of the same things (Cohen 1960): 1 for full agreement, 0 for chance.

    None without any pair, and where chance alone would agree always.

    >>> kappa([("a", "a"), ("a", "b"), ("b", "b"), ("b", "b")])
    0.5
    """
    if not pairs:
        return None
    count = len(pairs)
    first, second = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    observed = sum(one == other for one, other in pairs) / count
    chance = sum(first[category] * second[category] for category in first) / count**2
    return None if chance == 1 else (observed - chance) / (1 - chance)


def wilson(wrong: int, looked_at: int, confidence: float) -> tuple[float, float]:
    """The interval of a rate, of which so many were seen (Wilson 1927, the score interval); all of [0, 1] for none.

    >>> [round(bound, 4) for bound in wilson(1, 10, 0.95)]
    [0.0179, 0.4042]
    """
    if not looked_at:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, spread = wrong / looked_at, z**2 / looked_at
    middle = (rate + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(rate * (1 - rate) / looked_at + spread / (4 * looked_at))
    return (0.0 if not wrong else max(0.0, middle - half)), (1.0 if wrong == looked_at else min(1.0, middle + half))


def judgements(history: EventHistory) -> dict[str, str]:
    """What each person says of an event: it was right, or wrong (rejected, or in need of an edit)."""
    own = [one for one in history.in_force if one.qa_id is None]
    last = {one.who: one.what for one in own}
    editors = {one.who for one in own if one.what == "edit"}
    return {who: _RIGHT if what == "accept" and who not in editors else _WRONG for who, what in last.items()}


def agreement(histories: Iterable[EventHistory]) -> list[dict[str, Any]]:
    """Of every two people who looked at the same events: how many, how often they agree, and kappa."""
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for history in histories:
        said = judgements(history)
        for one, other in combinations(sorted(said), 2):
            pairs.setdefault((one, other), []).append((said[one], said[other]))
    return [
        {
            "reviewers": list(people),
            "rows": len(found),
            "same": sum(one == other for one, other in found),
            "kappa": kappa(found),
        }
        for people, found in sorted(pairs.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def unreviewed(
    sample: Sequence[Target], rows: int, histories: Mapping[Target, EventHistory], confidence: float
) -> dict[str, Any]:
    """The error rate of accepted rows that nobody has looked at, from a random sample of the accepted ones.

    Only rows count that were taken from the sample: who picks rows by a filter looks at other ones.

    Args:
        sample: the drawn rows.
        rows: how many accepted ones nobody has looked at.
        histories: of the rows with verdicts.
        confidence: of the interval.
    """
    drawn = [history for target in sample if _from_sample(history := histories.get(target, EventHistory()))]
    wrong = sum(next(iter(judgements(history).values())) == _WRONG for history in drawn)
    low, high = wilson(wrong, len(drawn), confidence)
    return {
        "rows": rows,
        "sample": len(sample),
        "looked_at": len(drawn),
        "wrong": wrong,
        "rate": wrong / len(drawn) if drawn else None,
        "low": low,
        "high": high,
        "confidence": confidence,
    }


def _from_sample(history: EventHistory) -> bool:
    own = [one for one in history.in_force if one.qa_id is None]
    return bool(own) and own[0].section == "sample"


def effort(verdicts: Iterable[Verdict]) -> tuple[float | None, float]:
    """The median of the seconds that a row takes a person, None where none are known, and the hours of all rows.

    A row's seconds are those of all verdicts on it by one person. The hours count each row with the median: who left a
    page open over lunch didn't work.
    """
    rows: dict[tuple[Target, str], float] = {}
    for one in verdicts:
        if one.seconds is not None and one.what != "undo":
            rows[one.target, one.who] = rows.get((one.target, one.who), 0.0) + one.seconds
    if not rows:
        return None, 0.0
    usual_s = median(rows.values())
    return usual_s, usual_s * len(rows) / HOUR_S


def figures(histories: Mapping[Target, EventHistory]) -> dict[str, Any]:
    """Counts of the rows that were looked at."""
    looked_at = [history for history in histories.values() if history.reviewers]
    verdicts = Counter(history.verdict for history in looked_at)
    return {
        "reviewed": len(looked_at),
        "accepted": verdicts["accepted"],
        "rejected": verdicts["rejected"],
        "edited": sum(history.edited for history in looked_at),
        "reviewers": dict(Counter(who for history in looked_at for who in history.reviewers).most_common()),
        "conflicts": sum(len(history.conflicts) for history in histories.values()),
        "agreement": agreement(looked_at),
    }
