"""``ravst evaluate``: predictions in; metrics, tables and a page with plots out.

::

    OUT/metrics.json     averages in percent, intervals, groups, baselines
    OUT/questions.jsonl  every question's values
    OUT/table.md, index.html (tables and plots), config.yaml
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ravst_ray.config.base import dump_config
from ravst_ray.config.rewards import EvaluateConfig, RewardConfig
from ravst_ray.core.names import NameMatcher
from ravst_ray.datasets.questions import read_questions
from ravst_ray.errors import ConfigError
from ravst_ray.evaluation.baselines import baseline_answers
from ravst_ray.evaluation.groups import GROUPINGS, question_groups, read_labels
from ravst_ray.evaluation.metrics import QuestionScore, score_question, summarise
from ravst_ray.evaluation.plots import draw_plots
from ravst_ray.evaluation.scoring import read_lines
from ravst_ray.evaluation.tables import write_tables
from ravst_ray.logs import get_logger
from ravst_ray.records import QAPair
from ravst_ray.rewards.word_vectors import name_matcher
from ravst_ray.tasks import TASKS, settled, task_of
from ravst_ray.tasks.protocols import Exam

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
    settings = settled(settings)
    pairs, durations = read_questions(annotations)
    texts = _read_predictions(predictions, pairs)
    names = name_matcher(settings.names)
    truths = {pair.qa_id: task_of(pair.task).parse(pair.answer) for pair in pairs}
    given = {pair.qa_id: task_of(pair.task).parse(texts[pair.qa_id]) for pair in pairs if pair.qa_id in texts}
    labels = read_labels(settings.event_labels)
    groups = {
        pair.qa_id: question_groups(pair, truths[pair.qa_id], durations[pair.video_id], labels, settings)
        for pair in pairs
    }
    scores = _score(pairs, truths, given, names, settings, groups)
    metrics: dict[str, Any] = summarise(scores, TASKS, settings.bootstrap, settings.seed)
    metrics["groups"] = by_group(scores)
    trivial = {
        name: _score([pair for pair in pairs if pair.qa_id in answers], truths, answers, names, settings, groups)
        for name, answers in baseline_answers(Exam(pairs, truths, durations)).items()
    }
    metrics["baselines"] = {name: summarise(found, TASKS) for name, found in trivial.items()}
    metrics["trivial_groups"] = _best_by_group(list(trivial.values()))
    metrics["malformed"] = dict(sum((Counter(answer.malformed) for answer in given.values()), Counter()))
    metrics["names"] = {"vectors": str(getattr(names.vectors, "path", None) or "equality"), "tau": names.tau}
    missing = len(pairs) - len(given)
    if missing:
        log.warning("%d of %d questions have no prediction; they count 0", missing, len(pairs))
    _write(Path(out), metrics, scores, settings)
    write_tables(Path(out), metrics, draw_plots(scores, pairs, truths, given, durations) if settings.plots else [])
    return metrics


def by_group(scores: list[QuestionScore]) -> dict[str, dict[str, Any]]:
    """Averages for each group of each grouping: ``{"duration": {"short": {task: {…}}}}``."""
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
    truths: Mapping[str, Any],
    given: Mapping[str, Any],
    names: NameMatcher,
    config: EvaluateConfig,
    groups: Mapping[str, Mapping[str, str]],
) -> list[QuestionScore]:
    return [
        score_question(pair, truths[pair.qa_id], given.get(pair.qa_id), names, config, groups[pair.qa_id])
        for pair in pairs
    ]


def _best_by_group(trivial: list[list[QuestionScore]]) -> dict[str, dict[str, Any]]:
    """Of each headline metric what the best trivial answer has: ``{"duration": {"short": {task: {"m_tIoU": …}}}}``."""
    found: dict[str, dict[str, Any]] = {}
    for grouping, groups in ((name, groups) for scores in trivial for name, groups in by_group(scores).items()):
        for key, summary in groups.items():
            for task, entry in summary.items():
                best = found.setdefault(grouping, {}).setdefault(key, {}).setdefault(task, {})
                for metric in TASKS[task].headline:
                    if entry[metric] is not None:
                        best[metric] = max(entry[metric], best.get(metric, 0.0))
    return found


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
