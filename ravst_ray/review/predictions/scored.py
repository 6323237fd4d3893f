"""Files of predictions, scored as ``ravst score`` does it, and side by side: all numbers as columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from ravst_ray.config.rewards import RewardConfig
from ravst_ray.errors import ConfigError
from ravst_ray.records import QAPair
from ravst_ray.review.predictions.lines import Answer, AnswerLines, Faults
from ravst_ray.tasks import part_names, task_of, weights_of
from ravst_ray.tasks.rubric import Reward, Rubric

TOTAL = "total"
"""The weighted sum of the parts, beside their names."""
_SAMPLE_BITS = 24


@dataclass(frozen=True, slots=True)
class Run:
    """The answers of one file.

    Attributes:
        lines: the file.
        faults: what of it isn't shown.
        question_A: of each answer the place of its question.
        sample_A: the how manieth answer of the file to this question it is, from 0.
        place_A: where it stands, in bytes.
        scores: by part, and :data:`TOTAL`, the score of each answer ``[A]``; NaN of what doesn't count in its task.
        maximum_A: the largest total.
        truncated, malformed: how many answers hit the token limit, and aren't well formed.
    """

    lines: AnswerLines
    faults: Faults
    question_A: np.ndarray
    sample_A: np.ndarray
    place_A: np.ndarray
    scores: Mapping[str, np.ndarray]
    maximum_A: np.ndarray
    truncated: int
    malformed: int


def read_run(place: str, pairs: Sequence[QAPair], annotations: str, rubric: Rubric) -> Run:
    """Read and score a file.

    Args:
        place: of the file, a path or a URI.
        pairs: the questions.
        annotations: where they are from, for messages.
        rubric: scores.

    Raises:
        ConfigError: it can't be read, or has no answer to any of the questions.
    """
    number = {pair.qa_id: index for index, pair in enumerate(pairs)}
    rows: list[tuple[int, int, int, float]] = []  # question, sample, place, maximum
    scores: list[Mapping[str, float]] = []
    seen: Counter[int] = Counter()
    marked: Counter[str] = Counter()
    weighs = {task: weights(task, rubric.config) for task in {pair.task for pair in pairs}}

    def take(at: int, answer: Answer) -> None:
        index = number[answer.qa_id]
        pair = pairs[index]
        reward = score(rubric, pair, answer)
        rows.append((index, seen[index], at, reward.maximum))
        counted = {name: part for name, part in reward.parts.items() if weighs[pair.task].get(name, 1.0)}
        scores.append({TOTAL: reward.total, **counted})
        seen[index] += 1
        marked.update(truncated=answer.truncated, malformed=bool(reward.malformed))

    lines = AnswerLines(place)
    faults = lines.read(number, take)
    if not rows:
        lines.close()
        raise ConfigError(_no_answer(place, annotations, pairs, faults))
    names = [TOTAL, *dict.fromkeys((*part_names(), *(name for one in scores for name in one if name != TOTAL)))]
    columns = {name: np.array([one.get(name, np.nan) for one in scores]) for name in names}
    question_A, sample_A, place_A = (np.array([row[k] for row in rows], np.int64) for k in range(3))
    maximum_A = np.array([row[3] for row in rows])
    kept = {name: column for name, column in columns.items() if not np.isnan(column).all()}
    return Run(lines, faults, question_A, sample_A, place_A, kept, maximum_A, marked["truncated"], marked["malformed"])


def score(rubric: Rubric, pair: QAPair, answer: Answer) -> Reward:
    """The reward of an answer."""
    return rubric.score(pair.task, answer.text, pair.answer, answer.truncated, answer.tokens)


def weights(task: str, config: RewardConfig) -> Mapping[str, float]:
    """What the parts weigh; all parts of the published code weigh 1, and have other names."""
    return {} if config.profile == "paper_compat" else weights_of(task_of(task), config)


def _no_answer(place: str, annotations: str, pairs: Sequence[QAPair], faults: Faults) -> str:
    if not faults.counts["foreign"]:
        return f'{place}: holds no prediction; a line is {{"id": text, "prediction": text}}'
    example = f"; there one is {pairs[0].qa_id!r}" if pairs else ""
    return (
        f"{place}: no id of it is a question of {annotations} (for example {faults.examples['foreign'][0]!r}{example})"
        "; name the --annotations that it was predicted for"
    )


def names_of(places: Sequence[str]) -> list[str]:
    """What files are called on the page: as short as tells them apart.

    Example:
        >>> names_of(["out/before.jsonl", "out/after.jsonl"]), names_of(["one/a.jsonl", "two/a.jsonl"])
        (['before', 'after'], ['one/a', 'two/a'])
    """
    parts = [PurePath(place.partition("?")[0]).with_suffix("").parts for place in places]
    for length in range(1, max(len(one) for one in parts) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{one[-1]} ({number})" for number, one in enumerate(parts, start=1)]


class Joined:
    """The answers of one or two runs, a row for each question and sample; in the order of the questions.

    Args:
        runs: one or two.
    """

    def __init__(self, runs: Sequence[Run]):
        keys = [run.question_A << _SAMPLE_BITS | run.sample_A for run in runs]
        key_R = np.unique(np.concatenate(keys))
        self.question_R = key_R >> _SAMPLE_BITS
        self.sample_R = key_R & (1 << _SAMPLE_BITS) - 1
        self.answer_R: list[np.ndarray] = []
        """By run the place of its answer in it, -1 where it has none."""
        for key_A in keys:
            answer_R = np.full(len(key_R), -1)
            answer_R[np.searchsorted(key_R, key_A)] = np.arange(len(key_A))
            self.answer_R.append(answer_R)
        self.names = [name for name in runs[0].scores if all(name in run.scores for run in runs)]
        self._scores = {
            name: [
                np.where(answer_R >= 0, run.scores[name][answer_R], np.nan)
                for run, answer_R in zip(runs, self.answer_R, strict=True)
            ]
            for name in self.names
        }

    def scores(self, name: str) -> list[np.ndarray]:
        """By run the score of a part ``[R]``, NaN where there is none."""
        return self._scores[name]

    def difference(self, name: str) -> np.ndarray:
        """What the second run has more than the first ``[R]``; NaN where one of them has no score."""
        first, second = self._scores[name]
        change = second - first
        change[np.abs(change) < 1e-9] = 0.0
        return change
