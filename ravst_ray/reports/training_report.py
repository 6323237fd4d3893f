"""The report at the end of a training run: one HTML file that needs nothing beside it.

OUT/metrics.jsonl, OUT/rollouts/*.parquet, OUT/config.yaml -> OUT/report.html; and OUT/report.completions.jsonl, the
completions that it shows as a file of predictions.

Whatever isn't there is left out, or told in a sentence: a run without a single step has a report as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ravst_ray.config.train import TrainConfig
from ravst_ray.reports import figures
from ravst_ray.reports.completion_lines import NAME as LINES
from ravst_ray.reports.completion_lines import completion_lines, review_command
from ravst_ray.reports.completions import SAID, TRUE, CompletionCard, completion_cards, pick, task_weights
from ravst_ray.reports.curves import SMOOTH_FROM, Unit, ends, mean_over, shown, tail
from ravst_ray.reports.page import Tile, duration, page_environment
from ravst_ray.reports.run_folder import Numbers, RunFolder, Sampled, in_order, read_run
from ravst_ray.reports.training_charts import (
    ByKey,
    phase_seconds,
    reward_charts,
    sampling_charts,
    time_charts,
    update_charts,
)
from ravst_ray.reports.validation import best_step, held_out_charts, held_out_tables
from ravst_ray.tasks import TASKS, malformations, part_names

NAME = "report.html"
_EVENTS = {
    "rollout/retries": "groups asked again after a failure",
    "rollout/resampled_groups": "groups of equal rewards that were sampled anew",
    "rollout/skipped_questions": "questions passed over because of their video",
}
_STATES = {"rollout/restarts": "rollout actors started again", "rollout/skipped_videos": "videos that can't be read"}


Cards = list[tuple[str, list[CompletionCard], list[CompletionCard]]]
_Spans = tuple[Sequence[Sampled], ...]


@dataclass(frozen=True)
class Row:
    """A line of a table of numbers; ``values`` in its columns, None where there is none."""

    name: str
    values: tuple[float | None, ...]
    note: str = ""


def write_training_report(output: str | Path, place: str | None = None) -> Path:
    """Write ``output/report.html``, and the completions that it shows beside it; gives its path.

    Args:
        output: folder of a training run, finished or not. The places of questions and videos in its ``config.yaml``
            count from the current directory, as they did for the run.
        place: where users find the run, if ``output`` is a copy.

    Raises:
        OSError: the report can't be written.
    """
    path = Path(output) / NAME
    run = read_run(Path(output))
    cards, lines = _cards(run)
    path.with_name(LINES).unlink(missing_ok=True)
    command = None
    if lines and run.config:
        path.with_name(LINES).write_text(lines, encoding="utf-8", newline="\n")
        command = review_command(run.config, place or str(output))
    path.write_text(_render(run, Path(output).absolute().name, cards, command), encoding="utf-8", newline="\n")
    return path


def _render(run: RunFolder, name: str, cards: Cards, command: str | None) -> str:
    steps = [int(numbers["step"]) for numbers in run.steps]
    by_key = _by_key(run.steps)
    metric = run.config.validation.metric if run.config else "reward"
    best = best_step(run.validations, metric)
    environment = page_environment()
    environment.filters.update(shown=shown)
    return environment.get_template("training_report.html.j2").render(
        name=name,
        problems=run.problems,
        steps=steps,
        tail=tail(len(steps)),
        tiles=_tiles(run, by_key, steps),
        rewards=reward_charts(by_key, steps, run.config),
        held_out=held_out_charts(run.validations),
        held_out_tables=held_out_tables(run.validations, best),
        best_step=best,
        best_by=metric,
        smooth=len(steps) >= SMOOTH_FROM,
        by_task=_by_task(run.completions, run.config),
        sampling=sampling_charts(by_key, steps),
        malformed=_malformed(by_key, steps),
        meanings=malformations(),
        update=update_charts(by_key, steps),
        kl=run.config.learner.kl if run.config else None,
        time=time_charts(by_key, steps),
        phases=_phases(by_key),
        events=_incidents(by_key),
        numbers=_every_number(by_key, steps),
        cards=cards,
        command=command,
        colors={"true": TRUE, "said": SAID},
    )


def _by_key(steps: Sequence[Numbers]) -> dict[str, dict[int, float]]:
    """``{key: {step: value}}``; a kind of malformation that a step hasn't met counts 0 there."""
    found: dict[str, dict[int, float]] = {}
    for numbers in steps:
        for key, value in numbers.items():
            found.setdefault(key, {})[int(numbers["step"])] = value
    found.pop("step", None)
    sampled = found.get("completion/tokens", {})
    for key in found:
        if key.startswith("malformed/"):
            found[key] = dict.fromkeys(sampled, 0.0) | found[key]
    return dict(sorted(found.items()))


def _tiles(run: RunFolder, by_key: ByKey, steps: Sequence[int]) -> list[Tile]:
    """The key figures; one whose numbers are missing is left out."""
    size = tail(len(steps))
    lately = "" if len(steps) < 2 else "in the last step" if size == 1 else f"in the last {size} steps"
    tiles = [Tile("Steps", len(steps), f"{len(steps):,}", f"of {run.config.max_steps:,}" if run.config else "")]
    if run.completions:
        asked, count = len({one.question_id for one in run.completions}), len(run.completions)
        tiles.append(Tile("Completions", count, f"{count:,}", f"to {asked:,} question{'s' if asked != 1 else ''}"))

    def add(label: str, key: str, unit: Unit, note: str, of_all: bool = True) -> None:
        values = by_key.get(key, {})
        value = mean_over(values, steps) if of_all else ends(values, steps)[1]
        if value is not None:
            tiles.append(Tile(label, value, shown(value, unit), note))

    first = ends(by_key.get("reward/mean", {}), steps)[0]
    begun = f"; {shown(first)} in the first" if first is not None and lately else ""
    add("Reward", "reward/mean", "", lately + begun, of_all=False)
    add("Tokens", "completion/tokens", "", f"a completion, {lately}" if lately else "a completion", of_all=False)
    add("Cut off", "completion/truncated", "share", "completions at the limit, all steps")
    add("Equal rewards", "group/zero_variance", "share", "groups that teach nothing, all steps")
    if gaps := by_key.get("sync/logprob_gap"):
        limits = by_key.get("sync/gap_limit")
        limit = f"; the limit is {min(limits.values()):.3g}" if limits else ""
        largest = max(gaps.values())
        tiles.append(Tile("Log-prob gap", largest, shown(largest), f"the largest after a sync{limit}"))
    if seconds := by_key.get("seconds/step"):
        spent = sum(seconds.values())
        tiles.append(Tile("Time", spent, duration(spent), f"{duration(spent / len(seconds))} a step"))
    add("Actors busy", "rollout/busy_share", "share", "of the time, all steps")
    add("Learner busy", "learner/busy_share", "share", "of the time, all steps")
    return tiles


def _by_task(completions: Sequence[Sampled], config: TrainConfig | None) -> list[tuple[str, int, list[Row]]]:
    """By task the number of completions, and rows of means: over the first, the last and all steps."""
    steps = sorted({one.step for one in completions})
    size = tail(len(steps))
    first, last = set(steps[:size]), set(steps[-size:])
    tables = []
    for task in in_order((one.task for one in completions), list(TASKS)):
        own = [one for one in completions if one.task == task]
        spans = ([one for one in own if one.step in first], [one for one in own if one.step in last], own)
        weights = task_weights(config, task)

        def row(name: str, value: Callable[[Sampled], float | None], note: str = "", spans: _Spans = spans) -> Row:
            found = ([number for one in span if (number := value(one)) is not None] for span in spans)
            return Row(name, tuple(sum(numbers) / len(numbers) if numbers else None for numbers in found), note)

        rows = [row("reward", lambda one: one.reward if math.isfinite(one.reward) else None)]
        for name in in_order((name for one in own for name in one.parts), part_names()):
            weight = weights.get(name)
            note = "" if weight is None else f"× {weight:g}"
            rows.append(row(name, lambda one, name=name: one.parts.get(name), note))  # type: ignore[misc]
        rows.append(row("tokens", lambda one: one.tokens))
        rows.append(row("cut off", lambda one: one.truncated))
        rows.append(row("malformed", lambda one: bool(one.malformed)))
        tables.append((task, len(own), rows))
    return tables


def _malformed(by_key: ByKey, steps: Sequence[int]) -> list[Row]:
    """Kinds by falling number over the run; columns: a completion in the first, the last and all steps."""
    kinds = {key.partition("/")[2]: values for key, values in by_key.items() if key.startswith("malformed/")}
    meanings = malformations()
    rows = [
        Row(kind, (*ends(values, steps), mean_over(values, steps)), meanings.get(kind, ""))
        for kind, values in kinds.items()
    ]
    return sorted(rows, key=lambda row: (-(row.values[2] or 0.0), row.name))


def _phases(by_key: ByKey) -> list[figures.Bar]:
    """Seconds of the whole run by phase."""
    if not by_key.get("seconds/step"):
        return []
    return figures.bars({phase: sum(values.values()) for phase, values in phase_seconds(by_key).items()})


def _incidents(by_key: ByKey) -> list[tuple[str, int]]:
    """What went wrong on the way and how often; nothing that never happened."""
    found = [(text, sum(by_key.get(key, {}).values())) for key, text in _EVENTS.items()]
    # These two are counted on from step to step.
    found += [(text, max(by_key.get(key, {}).values(), default=0.0)) for key, text in _STATES.items()]
    return [(text, round(count)) for text, count in found if count]


def _every_number(by_key: ByKey, steps: Sequence[int]) -> list[Row]:
    """Each key's mean over the first, the last and all steps, its least and its greatest value."""
    return [
        Row(key, (*ends(values, steps), mean_over(values, steps), min(values.values()), max(values.values())))
        for key, values in by_key.items()
    ]


def _cards(run: RunFolder) -> tuple[Cards, str]:
    """By task the best and the worst completions, and the lines of all that can be shown on their video."""
    picked = pick(run.completions)
    wanted = [one for best, worst in picked.values() for one in (*best, *worst)]
    cards, lines = completion_lines(completion_cards(wanted, run.config))
    made = iter(cards)
    found = [(task, [next(made) for _ in best], [next(made) for _ in worst]) for task, (best, worst) in picked.items()]
    return found, lines
