"""``ravst evaluate --benchmark``: answers to a benchmark in; metrics by its own rules and tables out.

::

    OUT/metrics.json     averages in percent: ours, by the published code, of trivial answers, by group
    OUT/questions.jsonl  every question's values
    OUT/table.md, index.html, config.yaml
    OUT/judge_cache.sqlite  what the judge said, so that it is asked once
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ravst_ray.config.base import dump_config
from ravst_ray.config.benchmarks import BenchmarkConfig
from ravst_ray.errors import ConfigError
from ravst_ray.evaluation.benchmarks.answers import final_answer, percent
from ravst_ray.evaluation.benchmarks.judge import ask_judge
from ravst_ray.evaluation.benchmarks.protocols import Answer, Benchmark, Question
from ravst_ray.evaluation.benchmarks.tables import write_benchmark_tables
from ravst_ray.evaluation.scoring import read_lines
from ravst_ray.language.protocols import ChatModel
from ravst_ray.logs import get_logger

log = get_logger(__name__)
Answers = Mapping[str, Answer]
_SHOWN = ("engine.model", "frames", "prompt.think", "sampling")


def evaluate_benchmark(
    benchmark: Benchmark,
    predictions: str | Path,
    annotations: str | Path,
    out: str | Path,
    config: BenchmarkConfig | None = None,
    judge: ChatModel | None = None,
) -> dict[str, Any]:
    """Evaluate a file of predictions on a benchmark.

    Args:
        benchmark: one of ``BENCHMARKS``.
        predictions: lines ``{"id", "prediction"}`` of ``ravst predict --benchmark``. Thinking is taken off before the
            benchmark's rule is applied; a missing prediction counts as wrong in "this run", and leaves the averages
            where the published code leaves it out.
        annotations: the benchmark's published file.
        out: folder for the results, made if missing.
        config: whether a language model marks free answers.
        judge: that model; None: the endpoint of the configuration.

    Returns:
        What ``metrics.json`` holds: ``ours``, ``official`` and ``trivial`` averages by column in percent, ``groups``,
        ``n`` and ``n_missing`` (questions), ``settings`` of the predictions, where they are known.

    Raises:
        ConfigError: a file can't be used, an id is unknown or there twice.
        AbortError: the judge refuses all.
    """
    settings = config or BenchmarkConfig()
    folder = Path(out)
    questions = benchmark.read(annotations)
    given: Answers = _read_predictions(predictions, questions)
    trivial: dict[str, Answers] = {
        name: {qa_id: Answer(text) for qa_id, text in texts.items()}
        for name, texts in benchmark.trivial(questions).items()
    }
    _make(folder)
    if settings.judge is not None:
        given = _judged(benchmark, questions, given, settings, folder, judge)
        trivial = {name: _judged(benchmark, questions, row, settings, folder, judge) for name, row in trivial.items()}
    ours = _scores(benchmark, questions, given)
    missing = len(questions) - len(given)
    if missing:
        log.warning("%d of %d questions have no prediction; they count as wrong", missing, len(questions))
    strict = {one.qa_id: benchmark.score(one, given[one.qa_id], True) for one in questions if one.qa_id in given}
    metrics: dict[str, Any] = {
        "benchmark": benchmark.name,
        "n": len(questions),
        "n_missing": missing,
        "judge": settings.judge.model if settings.judge else None,
        "settings": _settings(predictions),
        "ours": benchmark.summarise(questions, ours, False),
        "official": benchmark.summarise(questions, strict, True),
        "trivial": {
            name: benchmark.summarise(questions, _scores(benchmark, questions, row), False)
            for name, row in trivial.items()
        },
        "groups": _groups(benchmark, questions, ours),
    }
    _write(folder, metrics, questions, given, ours, settings)
    write_benchmark_tables(folder, benchmark, metrics)
    return metrics


def _read_predictions(path: str | Path, questions: Sequence[Question]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for line in read_lines(path, ["prediction"], {question.qa_id for question in questions}):
        if line["id"] in answers:
            raise ConfigError(f"{path}: the id {line['id']!r} is there twice; one prediction a question")
        scale = line.get("box_scale", [1.0, 1.0])
        if not (
            isinstance(scale, list) and len(scale) == 2 and all(isinstance(x, int | float) and x > 0 for x in scale)
        ):
            raise ConfigError(f"{path}: {line['id']!r}: box_scale is {scale!r}, not two numbers above 0")
        answers[line["id"]] = Answer(line["prediction"], (float(scale[0]), float(scale[1])))
    return answers


def _judged(
    benchmark: Benchmark,
    questions: Sequence[Question],
    answers: Answers,
    config: BenchmarkConfig,
    folder: Path,
    judge: ChatModel | None,
) -> Answers:
    asked = {
        one.qa_id: messages
        for one in questions
        if one.qa_id in answers and (messages := benchmark.judged(one, answers[one.qa_id].text)) is not None
    }
    if config.judge is None or not asked:
        return answers
    verdicts = ask_judge(asked, config.judge, folder / "judge_cache.sqlite", judge)
    return {qa_id: replace(one, verdict=verdicts.get(qa_id)) for qa_id, one in answers.items()}


def _scores(benchmark: Benchmark, questions: Sequence[Question], answers: Answers) -> dict[str, dict[str, float]]:
    """Of every question; a missing answer is an empty one."""
    return {one.qa_id: benchmark.score(one, answers.get(one.qa_id, Answer("")), False) for one in questions}


def _groups(
    benchmark: Benchmark, questions: Sequence[Question], scores: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Averages by grouping and group, and of each column the plain mean of the groups that have a value."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for grouping in questions[0].groups:
        rows: dict[str, dict[str, float | None]] = {}
        for key in sorted({one.groups[grouping] for one in questions}):
            members = [one for one in questions if one.groups[grouping] == key]
            rows[key] = {"n": len(members), **benchmark.summarise(members, scores, False)}
        columns = {column for row in rows.values() for column in row if column != "n"}
        known = {column: [row[column] for row in rows.values() if row.get(column) is not None] for column in columns}
        mean = {
            column: percent(value / 100 for value in values if value is not None) for column, values in known.items()
        }
        found[grouping] = rows | {"mean of the groups": mean}
    return found


def _settings(predictions: str | Path) -> dict[str, Any]:
    """What the model was shown and how it answered, of the configuration beside the predictions; {} without one."""
    path = Path(f"{predictions}.config.yaml")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        log.warning("%s: not readable, so the table doesn't say how the answers were made: %s", path, error)
        found = {}
    shown: dict[str, Any] = {}
    for key in _SHOWN:
        value: Any = found
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            shown[key] = value
    return shown


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: can't write results there: {error}") from None


def _write(
    folder: Path,
    metrics: Mapping[str, Any],
    questions: Sequence[Question],
    answers: Answers,
    scores: Mapping[str, Mapping[str, float]],
    config: BenchmarkConfig,
) -> None:
    try:
        (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        with (folder / "questions.jsonl").open("w", encoding="utf-8") as sink:
            for one in questions:
                answer = answers.get(one.qa_id)
                said = {"answered": answer is not None, "answer": final_answer(answer.text) if answer else ""}
                marked = {"verdict": answer.verdict} if answer and answer.verdict is not None else {}
                row = {"id": one.qa_id, "kind": one.kind, **one.groups, "truth": one.truth, **said, **marked}
                sink.write(json.dumps(row | dict(scores[one.qa_id]), ensure_ascii=False) + "\n")
    except OSError as error:
        raise ConfigError(f"{folder}: can't write results there: {error}") from None
