"""``ravst score``: completions in, rewards out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ravst_ray.config.rewards import RewardConfig
from ravst_ray.datasets.questions import read_questions
from ravst_ray.errors import ConfigError
from ravst_ray.logs import get_logger
from ravst_ray.records import QAPair
from ravst_ray.rewards.word_vectors import name_matcher
from ravst_ray.tasks.rubric import Rubric

log = get_logger(__name__)


def make_rubric(config: RewardConfig) -> Rubric:
    """The rubric of a configuration, its word vectors loaded."""
    return Rubric(config, name_matcher(config.names))


def score_file(completions: str | Path, annotations: str | Path, out: str | Path, config: RewardConfig) -> None:
    """Score a file of completions.

    Args:
        completions: lines ``{"id", "completion"}`` (or ``"prediction"``), several of one id allowed; ``"truncated":
            true`` marks one that hit the token limit, ``"tokens"`` is its length. Other keys are carried along.
        annotations: questions in the published format.
        out: the same lines with ``reward``, the parts, and ``malformations`` (kind to count); replaced if there.
        config: weights and rules.

    Raises:
        ConfigError: a file can't be used, or an id is unknown.
    """
    questions = {pair.qa_id: pair for pair in read_questions(annotations)[0]}
    lines = [_as_completion(line) for line in read_lines(completions, ("completion", "prediction"), questions)]
    rubric = make_rubric(config)
    count, total, malformed = 0, 0.0, Counter[str]()
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    with partial.open("w", encoding="utf-8") as sink:
        for line in lines:
            pair = questions[line["id"]]
            tokens = line.get("tokens")
            reward = rubric.score(
                pair.task,
                line["completion"],
                pair.answer,
                bool(line.get("truncated", False)),
                tokens if isinstance(tokens, int) else None,
            )
            row = {**line, "reward": reward.total, **reward.parts, "malformations": dict(reward.malformed)}
            sink.write(json.dumps(row, ensure_ascii=True) + "\n")
            count, total = count + 1, total + reward.total
            malformed.update(reward.malformed)
    partial.replace(target)
    log.info(
        "%d completions, mean reward %.4f, malformations %s: %s", count, total / max(count, 1), dict(malformed), out
    )


def _as_completion(line: dict[str, Any]) -> dict[str, Any]:
    """A line of predictions, read as one of completions."""
    return line if "completion" in line else {**line, "completion": line["prediction"]}


def read_lines(
    path: str | Path, text_keys: Sequence[str], questions: Iterable[str] | dict[str, QAPair]
) -> Iterator[dict[str, Any]]:
    """The objects of a JSON lines file, checked: ``id`` is a known question, one of ``text_keys`` a string.

    Raises:
        ConfigError: naming the file, the line and what is wrong with it.
    """
    known = set(questions)
    try:
        with Path(path).open(encoding="utf-8-sig") as source:
            for number, text in enumerate(source, start=1):
                if text.strip():
                    yield _checked(text, text_keys, known, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable: {error}") from None


def _checked(text: str, text_keys: Sequence[str], known: set[str], place: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{place}: not JSON: {error}") from None
    key = next((key for key in text_keys if isinstance(line, dict) and key in line), text_keys[0])
    if not isinstance(line, dict) or not isinstance(line.get("id"), str) or not isinstance(line.get(key), str):
        raise ConfigError(f'{place}: expected {{"id": text, "{text_keys[0]}": text}}')
    if line["id"] not in known:
        raise ConfigError(f"{place}: unknown id {line['id']!r}; ids are video/event_num/task/index")
    return line
