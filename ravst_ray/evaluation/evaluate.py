"""``ravst evaluate``: predictions in; metrics, tables and plots out.

::

    OUT/metrics.json     averages in percent, intervals, groups, baselines
    OUT/questions.jsonl  every question's values
    OUT/table.md, index.html, plots/*.svg, config.yaml
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ravst_ray.config.base import dump_config
from ravst_ray.config.rewards import EvaluateConfig, RewardConfig
from ravst_ray.core.answers import ParsedAnswer, parse
from ravst_ray.core.names import NameMatcher
from ravst_ray.datasets.ravst_json import read_questions
from ravst_ray.errors import ConfigError
from ravst_ray.evaluation.baselines import APPLIES, baseline_answers
from ravst_ray.evaluation.groups import GROUPINGS, question_groups, read_labels
from ravst_ray.evaluation.metrics import QuestionScore, score_question, summarise
from ravst_ray.evaluation.scoring import read_lines
from ravst_ray.evaluation.tables import write_tables
from ravst_ray.logs import get_logger
from ravst_ray.records import TASKS, QAPair
from ravst_ray.rewards.word_vectors import name_matcher

log = get_logger(__name__)


def evaluate(
    predictions: str | Path, annotations: str | Path, out: str | Path, config: RewardConfig | None = None
) -> dict[str, Any]:
    """Evaluate a file of predictions.

    Args:
        predictions: lines ``{"id", "prediction"}``, one a question; a missing question counts 0 and is reported.
        annotations: questions in the published format.
        out: folder for the results, made if missing.
        config: how names, seconds and boxes are compared.

    Returns:
        What ``metrics.json`` holds: per task ``n``, ``n_missing`` and the averages in percent; ``groups``,
        ``baselines``, ``malformed`` (share of predictions with each malformation's count), ``names``.

    Raises:
        ConfigError: a file can't be used, an id is unknown or there twice.
    """
    settings = (
        config if isinstance(config, EvaluateConfig) else EvaluateConfig(**(config.model_dump() if config else {}))
    )
    pairs, durations = read_questions(annotations)
    texts = _read_predictions(predictions, pairs)
    names = name_matcher(settings.names)
    truths = {pair.qa_id: parse(pair.answer) for pair in pairs}
    given = {qa_id: parse(text) for qa_id, text in texts.items()}
    labels = read_labels(settings.event_labels)
    groups = {
        pair.qa_id: question_groups(pair, truths[pair.qa_id], durations[pair.video_id], labels, settings)
        for pair in pairs
    }
    scores = _score(pairs, truths, given, names, settings, groups)
    metrics: dict[str, Any] = summarise(scores, TASKS, settings.bootstrap, settings.seed)
    metrics["groups"] = by_group(scores)
    metrics["baselines"] = _baselines(pairs, truths, durations, names, settings)
    metrics["malformed"] = dict(sum((Counter(answer.malformed) for answer in given.values()), Counter()))
    metrics["names"] = {"vectors": str(getattr(names.vectors, "path", None) or "equality"), "tau": names.tau}
    missing = len(pairs) - len(given)
    if missing:
        log.warning("%d of %d questions have no prediction; they count 0", missing, len(pairs))
    _write(Path(out), metrics, scores, settings)
    if settings.plots:
        from ravst_ray.evaluation.plots import write_plots

        write_plots(Path(out) / "plots", scores, pairs, truths, given, durations)
    write_tables(Path(out), metrics)
    return metrics


def by_group(scores: list[QuestionScore]) -> dict[str, dict[str, Any]]:
    """Averages for each group of each grouping: ``{"duration": {"short": {"AVTR": {…}}}}``."""
    found: dict[str, dict[str, Any]] = {}
    for grouping in GROUPINGS:
        keys = sorted({score.groups[grouping] for score in scores if grouping in score.groups})
        if keys:
            found[grouping] = {
                key: summarise([score for score in scores if score.groups.get(grouping) == key], TASKS) for key in keys
            }
    return found


def _read_predictions(path: str | Path, pairs: list[QAPair]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for line in read_lines(path, ["prediction"], {pair.qa_id: pair for pair in pairs}):
        if line["id"] in texts:
            raise ConfigError(f"{path}: the id {line['id']!r} is there twice; one prediction a question")
        texts[line["id"]] = line["prediction"]
    return texts


def _score(
    pairs: list[QAPair],
    truths: Mapping[str, ParsedAnswer],
    given: Mapping[str, ParsedAnswer],
    names: NameMatcher,
    config: EvaluateConfig,
    groups: Mapping[str, Mapping[str, str]] | None = None,
) -> list[QuestionScore]:
    return [
        score_question(
            pair,
            truths[pair.qa_id],
            given.get(pair.qa_id),
            names,
            config.snap_s,
            groups[pair.qa_id] if groups else None,
        )
        for pair in pairs
    ]


def _baselines(
    pairs: list[QAPair],
    truths: Mapping[str, ParsedAnswer],
    durations_s: Mapping[str, float],
    names: NameMatcher,
    config: EvaluateConfig,
) -> dict[str, Any]:
    answers = baseline_answers(pairs, truths, durations_s)
    return {
        name: summarise(
            _score([pair for pair in pairs if pair.task in tasks], truths, answers[name], names, config), tasks
        )
        for name, tasks in APPLIES.items()
    }


def _write(out: Path, metrics: Mapping[str, Any], scores: list[QuestionScore], config: EvaluateConfig) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text(dump_config(config), encoding="utf-8")
        (out / "metrics.json").write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        with (out / "questions.jsonl").open("w", encoding="utf-8") as sink:
            for score in scores:
                row = {"id": score.qa_id, "answered": score.answered, **score.groups, **score.values}
                sink.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ConfigError(f"{out}: can't write results there: {error}") from None
