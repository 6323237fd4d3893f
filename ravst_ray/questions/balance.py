"""Which of all questions are kept, so that no kind outweighs the others and no answer is right without a look."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ravst_ray.config.make_str import BalanceConfig
from ravst_ray.datasets.splits import hash_share

FEW = 25
"""So many questions of each answer may always be kept: a small dataset is too small to be balanced."""
_LETTERS = "ABCDEFGHIJ"


def kept_rows(columns: Mapping[str, Sequence[Any]], rules: BalanceConfig, seed: int) -> tuple[list[int], Counter[str]]:
    """The places of the questions that are kept, rising, and how many of each kind are not.

    Of a kind the questions with the lowest hashes of seed and id are taken, so that more scenes change little. None of
    its answers (of choices: the right option's text) stands for more than ``answer_share`` of those taken, and ``FEW``.

    Args:
        columns: ``id``, ``kind``, ``answer`` and ``options`` of all questions.
        rules: how many, and how large a share.
        seed: of the run.
    """
    by_kind: defaultdict[str, list[int]] = defaultdict(list)
    for place, kind in enumerate(columns["kind"]):
        by_kind[kind].append(place)
    kept: list[int] = []
    dropped: Counter[str] = Counter()
    for kind, places in by_kind.items():
        answers = [_answer(columns["answer"][place], columns["options"][place]) for place in places]
        wanted = len(places) if rules.per_kind is None else min(rules.per_kind, len(places))
        wanted, most = _sizes(Counter(answers).values(), wanted, rules.answer_share)
        order = sorted(range(len(places)), key=lambda i: (hash_share(seed, columns["id"][places[i]], "balance"), i))
        taken: Counter[str] = Counter()
        for i in order:
            if taken.total() < wanted and taken[answers[i]] < most:
                taken[answers[i]] += 1
                kept.append(places[i])
        dropped[kind] = len(places) - taken.total()
    return sorted(kept), +dropped


def _answer(answer: str, options: Sequence[str]) -> str:
    return options[_LETTERS.index(answer)] if options else answer


def _sizes(counts: Iterable[int], wanted: int, share: float) -> tuple[int, int]:
    """The largest number of questions, up to the wanted one, of which each answer has its share at most; and that."""
    counts = list(counts)
    while True:
        most = max(int(share * wanted + 1e-9), FEW)
        there = min(wanted, sum(min(count, most) for count in counts))
        if there == wanted:
            return wanted, most
        wanted = there
